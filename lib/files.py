"""Files: written beside their place and moved in when whole; HDF5 input and output."""

import contextlib
import errno
import os
from pathlib import Path

import h5py
import numpy as np

from lib.errors import UserError


def absolute_path(path):
    """Gives the absolute path of what a user wrote, for reading and for messages; ~ is the home."""
    return Path(os.path.abspath(os.path.expanduser(path)))


@contextlib.contextmanager
def atomic_write(path):
    """Gives a path to write to; the file appears at its place only when all went well.

    Args:
        path: where the file belongs; its folder is made if need be.
    Yields:
        a path in the same folder with the same ending.
    Raises:
        UserError: if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    beside = path.with_name(f".{os.getpid()}_{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        is_full = _disk_is_full(error)
        if isinstance(error, RuntimeError) and not is_full:
            raise
        reason = "the disk is full. Make room" if is_full else error.strerror or error
        raise UserError(f"Cannot write {path}: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _disk_is_full(error):
    """Reads it from the message: HDF5 hides it in a long one, and may raise a RuntimeError."""
    signs = (os.strerror(errno.ENOSPC), f"errno = {errno.ENOSPC}")
    return any(sign in str(error) for sign in signs)


def write_hdf5(path, image, **others):
    """Writes arrays to an HDF5 file.

    retina-unet lib/help_functions.py, write_hdf5. Differs: written whole; the type is kept.

    Args:
        path: the file.
        image: (num_images, channels, height, width), stored as the data set `image`.
        others: further data sets by name (`ids`: a list of strings); None leaves one out.
    """
    with atomic_write(path) as beside, h5py.File(beside, "w") as file:
        file["image"] = image
        for name, values in others.items():
            if values is not None:
                file[name] = values


def load_hdf5(path):
    """Reads the data set `image` of an HDF5 file.

    retina-unet lib/help_functions.py, load_hdf5. Its float64 files are read too.

    Args:
        path: the file.
    Returns:
        (num_images, channels, height, width) as stored.
    Raises:
        UserError: if there is no such file, it is no whole HDF5 file or holds no such array.
    """
    with open_hdf5(path) as file:
        if "image" not in file:
            raise UserError(
                f"{path} holds no data set `image`, but {sorted(file) or 'nothing'}. "
                "Prepare the data again with prepare_datasets_DRIVE.py (or _ISBI.py)."
            )
        image = file["image"]
        holds_numbers = isinstance(image, h5py.Dataset) and image.dtype.kind in "biuf"
        if not holds_numbers or image.ndim != 4 or image.shape[0] == 0:
            raise UserError(
                f"{path}: `image` must hold numbers in the shape (num_images, channels, height, "
                f"width). Received: {image}."
            )
        image = image[...]
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise UserError(f"{path}: `image` holds NaN or infinite values. Prepare the data again.")
    return image


def load_hdf5_extra(path, name):
    """Reads another data set of an HDF5 file, strings as str.

    Args:
        path: the file.
        name: the data set, for example `ids`.
    Returns:
        the array (of strings: a list; of one string: itself), or None where the file has no such
        data set: files that retina-unet wrote have only `image`.
    """
    with open_hdf5(path) as file:
        if name not in file:
            return None
        if h5py.check_string_dtype(file[name].dtype):
            strings = file[name].asstr()[()]
            return strings if isinstance(strings, str) else list(strings)
        return file[name][...]


@contextlib.contextmanager
def open_hdf5(path, script=None):
    """Opens an HDF5 file for reading, and says what is wrong with it, also while it is read.

    Args:
        path: the file.
        script: how a user makes it, for the message.
    Yields:
        h5py.File.
    Raises:
        UserError: if there is no such file, it is in use, or not whole.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. Prepare the data first{f': {script}' if script else ''}, or "
            "fix path_local and the file names in [data paths] of the configuration."
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # h5py: cut off, or damaged inside
        if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
            raise UserError(
                f"{path} is in use: another program has it open for writing. Wait until that has "
                "ended, or close the file there, and start again."
            ) from error
        raise UserError(
            f"{path} is not a whole HDF5 file; it may be cut off, damaged or half downloaded "
            f"({path.stat().st_size} bytes). Prepare the data again. HDF5 says: {error}"
        ) from error


# ---------------------------------------------------------------- files that belong to images


def load_companion(path, images_path, data):
    """Reads a file that belongs to images: one array of one channel for each.

    Args:
        path: the file.
        images_path: the file of the images, for messages.
        data: with images (N, C, H, W) and ids.
    Returns:
        array as stored, None for a file that cannot be read; and a list of problems.
    """
    try:
        array = load_hdf5(path)
    except UserError as error:
        return None, error.problems
    images, problems = data["images"], []
    if array.shape[1] != 1:
        problems.append(channels_problem(path, 1, array))
    if len(array) != len(images):
        problems.append(
            f"{path} holds {len(array)} arrays for the {len(images)} images of {images_path.name}. "
            "Prepare the data again, or correct the file names in [data paths]."
        )
    if array.shape[2:] != images.shape[2:]:
        problems.append(
            f"{path} holds arrays of {array.shape[3]} x {array.shape[2]} pixels for images of "
            f"{images.shape[3]} x {images.shape[2]} in {images_path.name}. Prepare the data again."
        )
    ids, _ = load_ids(path, data["ids"])
    if len(ids) == len(images) and ids != data["ids"]:
        problems.append(
            f"{path} belongs to other images (ids {ids[0]} to {ids[-1]}) than {images_path.name} "
            f"(ids {data['ids'][0]} to {data['ids'][-1]}). Correct the file names in [data paths]."
        )
    return array, problems


def load_masks(path, images_path, data):
    """Reads masks that belong to images -> (uint8 in {0, 1}, problems); see load_companion."""
    masks, problems = load_companion(path, images_path, data)
    if masks is None:
        return None, problems
    values = np.unique(masks)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        problems.append(
            f"{path} must hold masks of 0 and 255. Received: {len(values)} values from "
            f"{values[0]} to {values[-1]}. Are files swapped in [data paths]?"
        )
    return (masks > 0).astype(np.uint8), problems


def channels_problem(path, expected, array):
    """Words that an array has another number of channels than expected."""
    return (
        f"{path} must hold {'RGB images' if expected == 3 else 'masks'} of {expected} channel(s). "
        f"Received: {array.shape[1]}. Are files swapped in [data paths]?"
    )


def load_ids(path, instead):
    """Reads the ids of the images in a file.

    Args:
        path: the file.
        instead: ids for a file that has none: files of retina-unet.
    Returns:
        list of names; and a list of problems: there must be one for each image.
    """
    stored = load_hdf5_extra(path, "ids")
    if stored is None:
        return list(instead), []
    ids = [str(name) for name in np.atleast_1d(stored)]
    if len(ids) == len(instead):
        return ids, []
    return ids, [f"{path} holds {len(ids)} ids for {len(instead)} images. Prepare the data again."]


def numbered(images):
    """Gives ids to the images of files that have none."""
    return [f"{number:02d}" for number in range(len(images))]
