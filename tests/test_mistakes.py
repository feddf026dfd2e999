"""Mistakes of users: each is named in one message, with status 1, and nothing is written.

What is wrong with the configuration alone: test_configuration.py.
"""

import dataclasses
import importlib
import shutil
import sys
from pathlib import Path

import h5py
import pytest
from PIL import Image

from lib.errors import UserError, run_script
from lib.files import atomic_write
from src import launch
from tests.processes import require_refusal, run
from tests.small_data import (
    DATA_FOLDER,
    hashes,
    mentions,
    picture,
    unet_shapes,
    write_keras1_weights,
)
from tests.small_experiment import configure, kept

pytest_plugins = ["tests.finished"]

# ---------------------------------------------------------------- nohup


def launch_fake(folder, step, *lines):
    """Launches a step whose main is replaced by a few lines, so that no TensorFlow starts."""
    body = "\n    ".join(["def main(configuration, experiment, overwrite=False):", *lines])
    code = (
        "import dataclasses, sys, types\n"
        "from src import launch\n"
        "fake = sys.modules['fake'] = types.ModuleType('fake')\n"
        f"exec({body!r}, fake.__dict__)\n"
        "retina = launch.TASKS['retina']\n"
        "fakes = dataclasses.replace(retina, training='fake', testing='fake')\n"
        "launch.TASKS['retina'] = fakes\n"
        f"sys.exit(launch.launch({step!r}))\n"
    )
    return run("-c", code, cwd=folder)


def test_nohup_shows_the_end_of_the_log_after_a_defect(tmp_path):
    configure(tmp_path, training_settings__nohup=True)
    done = launch_fake(tmp_path, "training", "import os", "os.system('echo from C')", "1 / 0")
    assert done.returncode == 1
    log = tmp_path / "small" / "small_training.nohup"
    assert mentions(done.output, f"last lines of {log}", "ZeroDivisionError")
    assert mentions(log.read_text(), "from C", "ZeroDivisionError")


def test_nohup_tells_a_mistake_in_both_places(tmp_path):
    configure(tmp_path, training_settings__nohup=True)
    lines = ("from lib.errors import UserError", "raise UserError('[training settings] no such.')")
    done = launch_fake(tmp_path, "training", *lines)
    require_refusal(done, "[training settings] no such.")
    assert "ERROR: [training settings] no such." in read_log_file(tmp_path)


def test_nohup_calls_a_stop_no_error(tmp_path):
    configure(tmp_path, training_settings__nohup=True)
    lines = ("from lib.errors import Stopped", "raise Stopped('Epoch 3 is saved.', 124)")
    done = launch_fake(tmp_path, "training", *lines)
    assert done.returncode == 124
    for told in (done.output, read_log_file(tmp_path)):
        assert "Epoch 3 is saved." in told and "ERROR" not in told


def read_log_file(folder):
    return (folder / "small" / "small_training.nohup").read_text()


def test_nohup_of_testing_has_a_log_of_its_own(tmp_path):
    configure(tmp_path, testing_settings__nohup=True)
    (tmp_path / "small").mkdir()
    write_keras1_weights(tmp_path / "small" / "small_best_weights.h5", unet_shapes())
    done = launch_fake(tmp_path, "testing", "print('scores')")
    assert done.returncode == 0, done.output
    assert "scores" not in done.output
    assert (tmp_path / "small" / "small_testing.nohup").read_text() == "scores\n"


# ---------------------------------------------------------------- mistakes: the image files


def remove_data(folder):
    shutil.rmtree(folder / "DRIVE")


def remove_a_mask(folder):
    (folder / "DRIVE/training/mask/22_training_mask.gif").unlink()


def remove_all_masks(folder):
    shutil.rmtree(folder / "DRIVE/test/mask")


def cut_a_photograph(folder):
    path = folder / "DRIVE/training/images/22_training.tif"
    path.write_bytes(path.read_bytes()[:5000])


def shrink_a_ground_truth(folder):
    path = folder / "DRIVE/training/1st_manual/23_manual1.gif"
    Image.fromarray(picture(path)[:, :-8]).save(path)


def blur_a_mask(folder):
    path = folder / "DRIVE/test/mask/02_test_mask.gif"
    mask = picture(path).copy()
    mask[:3, :3] = 7
    path.unlink()
    Image.fromarray(mask).save(path.with_suffix(".png"))


def write_text_as_photograph(folder):
    (folder / "DRIVE/test/images/01_test.tif").write_text("<html>Please log in</html>")


def swap(first, second):
    def swapping(folder):
        (folder / first).rename(folder / "between")
        (folder / second).rename(folder / first)
        (folder / "between").rename(folder / second)

    return swapping


def give_one_id_twice(folder):
    images = folder / "DRIVE/training/images"
    shutil.copy(images / "21_training.tif", images / "21_training.png")


BROKEN_PICTURES = {
    "no data folder": (remove_data, ["DRIVE/training does not exist", "Download"]),
    "no masks": (remove_all_masks, ["DRIVE/test/mask does not exist"]),
    "a mask too few": (remove_a_mask, ["training/mask has 2 files for 3 images", "id: 22"]),
    "cut TIFF": (cut_a_photograph, ["22_training.tif cannot be read whole", "Download it again"]),
    "other size": (shrink_a_ground_truth, ["23_manual1.gif must have 80 x 64", "72 x 64"]),
    "values 0, 7, 255": (blur_a_mask, ["02_test_mask.png", "3 values: 0, 7, 255", "Threshold it"]),
    "text as TIFF": (write_text_as_photograph, ["01_test.tif is not an image", "26 bytes"]),
    "images and masks swapped": (
        swap("DRIVE/training/images", "DRIVE/training/mask"),
        ["21_training_mask.gif must be an RGB photograph", "swapped?"],
    ),
    "masks and vessels swapped": (
        swap("DRIVE/test/mask", "DRIVE/test/1st_manual"),
        ["01_test_mask.gif", "outside the FOV", "swapped"],
    ),
    "one id twice": (give_one_id_twice, ["21_training.tif", "21_training.png", "rename"]),
}


@pytest.mark.parametrize("name", BROKEN_PICTURES)
def test_broken_pictures_are_reported_and_nothing_is_written(name, workspace, call):
    spoil, words = BROKEN_PICTURES[name]
    spoil(workspace)
    before = kept(workspace)
    require_refusal(call("prepare", workspace), *words)
    assert kept(workspace) == before


@pytest.mark.parametrize("size", [0, 4, 8, 100, 3000])
def test_a_photograph_cut_anywhere_is_reported(size, workspace, call):
    path = workspace / "DRIVE/test/images/02_test.tif"
    path.write_bytes(path.read_bytes()[:size])
    require_refusal(call("prepare", workspace), "02_test.tif", "again")


# ---------------------------------------------------------------- mistakes: the HDF5 files


def rewrite(name, change):
    """Gives a function that replaces the array of an HDF5 file."""

    def rewriting(folder):
        with h5py.File(folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5", "a") as file:
            image = file["image"][...]
            del file["image"]
            file["image"] = change(image)

    return rewriting


def cut_hdf5(name):
    def cutting(folder):
        path = folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cutting


def damage_hdf5(name):
    return lambda folder: damage(folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5")


def remove_hdf5(name):
    return lambda folder: (folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5").unlink()


# What else may be wrong in the files: test_files.py and test_retina_task.py. The words may name
# {subset}: train for training, test for testing.
BROKEN_HDF5 = {
    "missing": (remove_hdf5, "imgs", None, ["imgs_{subset}.hdf5 does not exist", "path_local"]),
    "cut": (cut_hdf5, "imgs", None, ["imgs_{subset}.hdf5 is not a whole HDF5", "Prepare"]),
    "damaged": (damage_hdf5, "imgs", None, ["imgs_{subset}.hdf5 is not a whole", "damaged"]),
    "of other length": (
        rewrite,
        "groundTruth",
        lambda image: image[:1],
        ["groundTruth_{subset}.hdf5 holds 1 arrays for the", "imgs_{subset}.hdf5"],
    ),
}


@pytest.mark.parametrize("step", ["training", "testing"])
@pytest.mark.parametrize("name", BROKEN_HDF5)
def test_broken_hdf5_is_reported_and_nothing_is_written(name, step, workspace, call):
    spoil, kind, change, words = BROKEN_HDF5[name]
    subset = "train" if step == "training" else "test"
    file = f"{kind}_{subset}"
    (spoil(file, change) if change else spoil(file))(workspace)
    if step == "training":  # `small` is trained already
        configure(workspace, name="other")
    before = kept(workspace)
    require_refusal(call(step, workspace), *(word.format(subset=subset) for word in words))
    assert kept(workspace) == before


def test_overwriting_with_broken_data_leaves_the_earlier_training(workspace, call):
    cut_hdf5("imgs_train")(workspace)
    before = kept(workspace)
    require_refusal(call("training", workspace, "--overwrite"), "imgs_train.hdf5")
    assert kept(workspace) == before


# ---------------------------------------------------------------- mistakes: the configuration


@pytest.mark.parametrize("script", ["run_training.py", "run_testing.py"])
def test_a_real_start_names_all_mistakes_and_gives_status_1(script, tmp_path):
    require_refusal(run(script, cwd=tmp_path), f"{tmp_path}/configuration.txt does not exist")
    configure(tmp_path, N_epochs=0, best_last="worst", patch_height=15, momentun=1)
    before = hashes(tmp_path)
    words = ("4 problems", "N_epochs", "best_last", "patch_height", "unknown key momentun")
    require_refusal(run(script, cwd=tmp_path), *words)
    assert hashes(tmp_path) == before


# What only the data show: step, changes, words; a training begins under a new name.
WRONG_FOR_THE_DATA = {
    "not a multiple": ("training", {"N_subimgs": 61}, ["N_subimgs", "3 training", "61", "Use 60"]),
    "large patch": ("training", {"patch_height": 68}, ["patch_height", "80 x 64", "smaller"]),
    "no place in FOV": (
        "training",
        {"patch_height": 64, "patch_width": 64, "training_settings__inside_FOV": True},
        ["patch_height", "inside_FOV = False"],
    ),
    "all images validate": ("training", {"validation_split": 3}, ["validation_split", "below 3"]),
    "25 of 2 images": (
        "testing",
        {"full_images_to_test": 25},
        ["full_images_to_test", "at most 2", "25", "Use 2"],
    ),
    "no such weights": (
        "training",
        {"initial_weights": "best_last.weights.h5"},
        ["initial_weights", "best_last.weights.h5", "or none"],
    ),
    "path elsewhere": ("training", {"path_local": "/nowhere"}, ["/nowhere/", "path_local"]),
}


@pytest.mark.parametrize("name", WRONG_FOR_THE_DATA)
def test_values_that_do_not_fit_the_data_are_reported(name, workspace, call):
    step, changes, words = WRONG_FOR_THE_DATA[name]
    if step == "training":
        changes = {"name": "other", **changes}
    configure(workspace, **changes)
    before = kept(workspace)
    require_refusal(call(step, workspace), *words)
    assert kept(workspace) == before


# ---------------------------------------------------------------- mistakes: the experiment's folder


def remove_best(folder):
    (folder / "small/small_best.weights.h5").unlink()


def remove_experiment(folder):
    shutil.rmtree(folder / "small")


def cut_best(folder):
    path = folder / "small/small_best.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_last(folder):
    path = folder / "small/small_last.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    """Spoils an HDF5 file inside: its length is right, its tables of contents are not."""
    path.write_bytes(path.read_bytes().replace(b"HEAP", b"PAEH"))


def damage_best(folder):
    damage(folder / "small/small_best.weights.h5")


def damage_last(folder):
    damage(folder / "small/small_last.weights.h5")


def best_of_gnet(folder):
    from lib.unet import get_gnet
    from lib.weights import save_weights

    save_weights(get_gnet(1, 16, 16), folder / "small/small_best.weights.h5")


def best_of_another_keras1_network(folder):
    remove_best(folder)
    shapes = unet_shapes(filters=(16, 32, 64))
    write_keras1_weights(folder / "small/small_best_weights.h5", shapes)


def best_of_a_deeper_keras1_network(folder):
    remove_best(folder)
    shapes = [(16, 1, 3, 3), *unet_shapes()]
    write_keras1_weights(folder / "small/small_best_weights.h5", shapes)


def best_cut_keras1(folder):
    remove_best(folder)
    path = folder / "small/small_best_weights.h5"
    write_keras1_weights(path, unet_shapes())
    path.write_bytes(path.read_bytes()[:-3000])


def data_as_best(folder):
    data = folder / DATA_FOLDER / "DRIVE_dataset_imgs_test.hdf5"
    shutil.copy(data, folder / "small/small_best.weights.h5")


def make_read_only(folder):
    (folder / "small").chmod(0o555)


def file_as_experiment(folder):
    shutil.rmtree(folder / "small")
    (folder / "small").write_text("my notes\n")


BROKEN_EXPERIMENTS = {
    "no weights": ("testing", remove_best, ["small_best.weights.h5", "small_last.weights.h5"]),
    "no experiment": ("testing", remove_experiment, ["workspace/small does not exist", "Train"]),
    "cut weights": ("testing", cut_best, ["small_best.weights.h5 is not a whole", "cut off"]),
    "damaged weights": ("testing", damage_best, ["small_best.weights.h5 is not a whole"]),
    "last weights damaged": ("training", damage_last, ["small_last.weights.h5", "--overwrite"]),
    "weights of gnet": ("testing", best_of_gnet, ["small_best.weights.h5", "network unet"]),
    "data as weights": ("testing", data_as_best, ["small_best.weights.h5", "network unet"]),
    "Keras 1, narrower": (
        "testing",
        best_of_another_keras1_network,
        ["small_best_weights.h5", "convolution2d_1", "(3, 3, 1, 32)", "network"],
    ),
    "Keras 1, deeper": (
        "testing",
        best_of_a_deeper_keras1_network,
        ["small_best_weights.h5", "11 convolutions", "Received: 12"],
    ),
    "Keras 1, cut": ("testing", best_cut_keras1, ["small_best_weights.h5", "not a whole"]),
    "read-only to test": ("testing", make_read_only, ["small cannot be", "read-only", "chmod"]),
    "read-only to train": ("training", make_read_only, ["small cannot be", "read-only", "chmod"]),
    "a file to test": ("testing", file_as_experiment, ["small", "is a file"]),
    "a file to train": ("training", file_as_experiment, ["small", "is a file"]),
    "last weights cut": ("training", cut_last, ["small_last.weights.h5", "--overwrite"]),
    "last weights gone": (
        "training",
        lambda folder: (folder / "small/small_last.weights.h5").unlink(),
        ["no small_last.weights.h5", "--overwrite"],
    ),
}


@pytest.mark.parametrize("name", BROKEN_EXPERIMENTS)
def test_broken_experiment_is_reported_and_left_alone(name, workspace, call):
    step, spoil, words = BROKEN_EXPERIMENTS[name]
    spoil(workspace)
    before = kept(workspace)
    require_refusal(call(step, workspace), *words)
    assert kept(workspace) == before


def test_files_that_no_test_wrote_are_refused_and_stay(workspace, call):
    configure(workspace, inference="full_image")
    mine = workspace / "mine"
    (mine / "segmentations").mkdir(parents=True)
    for name in ("ROC.png", "segmentations/01.png", "segmentations/other.png", "notes.txt"):
        (mine / name).write_text("mine")
    before = kept(workspace)
    done = call("testing", workspace, "--output", "mine")
    words = ("no test of this project is known to have written", "ROC.png, segmentations/01.png.")
    require_refusal(done, f"{mine} holds files", *words, "--output")
    assert kept(workspace) == before

    for name in ("ROC.png", "segmentations/01.png"):
        (mine / name).unlink()
    for _ in range(2):  # the second time over the results of the first
        done = call("testing", workspace, "--output", "mine")
        assert done.returncode == 0, done.output
    assert f"Removed the results of an earlier test in {mine}." in done.output
    after = kept(workspace)
    others = before.keys() - {"mine/ROC.png", "mine/segmentations/01.png"}
    assert {name: after.get(name) for name in others} == {name: before[name] for name in others}


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]], ids=["resumed", "overwritten"])
def test_tensorboard_without_its_package_is_reported_in_time(
    arguments, workspace, call, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    configure(workspace, N_epochs=6, tensorboard=True)
    before = kept(workspace)
    done = call("training", workspace, *arguments)
    require_refusal(done, "tensorboard = True", "pip install tensorboard", "False")
    assert kept(workspace) == before


def test_a_missing_package_or_backend_is_reported(workspace, call, monkeypatch):
    retina = dataclasses.replace(launch.TASKS["retina"], training="no_such_package")
    monkeypatch.setitem(launch.TASKS, "retina", retina)
    done = call("training", workspace)
    require_refusal(done, f"{sys.executable} lacks no_such_package", ".venv/bin/activate")


@pytest.mark.parametrize("name", ["DRIVE", "ISBI", "CTC", "folder"])
def test_a_preparation_leaves_a_read_only_folder_alone(name, tmp_path, monkeypatch, capsys):
    script = importlib.import_module(f"prepare_datasets_{name}")
    output, new = tmp_path / "output", tmp_path / "new" / "deep"
    output.mkdir()
    output.chmod(0o555)
    for folder, words in (
        (output, f"The folder {output} cannot be written to: the folder is marked read-only. Chan"),
        (new, f"The folder {tmp_path / 'none'}"),
    ):
        line = [script.__name__, str(tmp_path / "none"), "--output", str(folder)]
        monkeypatch.setattr(sys, "argv", line)
        assert run_script(script.main) == 1
        assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [output] and not list(output.iterdir())


def test_a_full_disk_is_called_so(tmp_path):
    hidden = (
        "[Errno 28] Unable to close file (errno = 28, error message = 'No space left on device')"
    )
    with pytest.raises(UserError, match=r"Cannot write .*a\.hdf5: the disk is full"):
        with atomic_write(tmp_path / "a.hdf5"):
            raise OSError(hidden)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_hides_nothing(tmp_path):
    """A full disk takes the traceback away; the terminal still names the error."""
    configure(tmp_path, training_settings__nohup=True)
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = launch_fake(
        tmp_path,
        "training",
        "import os",
        "full = os.open('/dev/full', os.O_WRONLY)",
        "os.dup2(full, 1); os.dup2(full, 2)",
        "raise OSError('No space left on device')",
    )
    assert done.returncode == 1
    assert "OSError: No space left on device" in done.output
