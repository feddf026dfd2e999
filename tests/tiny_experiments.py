"""Three experiments on noise, of a size that a script trains in seconds."""

import numpy as np

from lib.files import write_hdf5
from tests.small_data import write_configuration


def write_retina(folder, training="", testing="", num_epochs=1):
    """Writes data and configuration.txt: images of 64 x 48 pixels whose vessels are dark rows.

    Args:
        folder: where both go; the data to retina/.
        training: lines `key = value` for [training settings].
        testing: the same for [testing settings].
        num_epochs: N_epochs.
    """
    rng = np.random.default_rng(0)
    for subset, number in (("train", 2), ("test", 2)):
        images = rng.integers(100, 200, (number, 3, 64, 48), dtype=np.uint8)
        vessels = np.zeros((number, 1, 64, 48), np.uint8)
        vessels[:, :, ::8] = 255
        images[:, :, ::8] //= 3
        masks = np.full_like(vessels, 255)
        stacks = {"imgs": images, "groundTruth": vessels, "borderMasks": masks}
        for kind, stack in stacks.items():
            write_hdf5(folder / "retina" / f"DRIVE_dataset_{kind}_{subset}.hdf5", stack)
    return write_configuration(
        folder,
        path_local="./retina/",
        name="tiny",
        N_subimgs=40,
        N_epochs=num_epochs,
        seed=0,
        learning_rate=0.01,
        output_activation="linear",
        best_last="last",
        **_changes(training=training, testing=testing),
    )


def write_membrane(folder, training="", testing="", num_epochs=1):
    """Writes data and configuration_membrane.txt: slices of 40 x 48 pixels, membranes on a grid.

    Arguments as in write_retina; the data go to membrane/.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(150, 255, (3, 1, 40, 48), dtype=np.uint8)
    cells = np.full_like(images, 255)
    cells[..., ::10, :] = cells[..., ::10] = 0
    images[cells == 0] //= 3
    weights = np.where(cells == 0, 2, 0.5).astype(np.float32)
    for kind, stack in {"imgs": images, "groundTruth": cells, "weightMaps": weights}.items():
        write_hdf5(folder / "membrane" / f"ISBI_dataset_{kind}_train.hdf5", stack)
    return write_configuration(
        folder,
        "configuration_membrane.txt",
        task="membrane",
        path_local="./membrane/",
        name="tiny_membrane",
        N_epochs=num_epochs,
        best_last="last",
        **_changes(training=training, testing=testing),
    )


def write_cells(folder, training="", testing="", num_epochs=1):
    """Writes data and configuration_cells.txt: frames of 40 x 48 pixels, squares that touch.

    Arguments as in write_retina; the data go to cells/.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(150, 255, (3, 1, 40, 48), dtype=np.uint8)
    rows, columns = np.mgrid[:40, :48]
    objects = np.where(rows < 30, 1 + rows // 10 * 5 + columns // 10, 0).astype(np.uint16)
    objects = np.broadcast_to(objects, images.shape)
    cells = np.where(objects > 0, 255, 0).astype(np.uint8)
    cells[..., ::10, :] = cells[..., ::10] = 0
    images[cells == 0] //= 3
    weights = np.where(cells == 0, 2, 0.5).astype(np.float32)
    stacks = {"imgs": images, "groundTruth": cells, "weightMaps": weights, "instances": objects}
    for kind, stack in stacks.items():
        for part in ("train", "test") if kind in ("imgs", "instances") else ("train",):
            write_hdf5(folder / "cells" / f"CTC_dataset_{kind}_{part}.hdf5", stack)
    return write_configuration(
        folder,
        "configuration_cells.txt",
        task="cells",
        path_local="./cells/",
        name="tiny_cells",
        N_epochs=num_epochs,
        best_last="last",
        **_changes(training=training, testing=testing),
    )


def _changes(**settings):
    """Reads lines `key = value` of the settings into arguments of write_configuration."""
    return {
        f"{kind}_settings__{key.strip()}": value.strip()
        for kind, lines in settings.items()
        for key, _, value in (line.partition("=") for line in lines.splitlines() if line.strip())
    }
