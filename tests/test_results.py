"""Tests of what every testing writes, and of what the next one removes."""

import os

import h5py
import numpy as np
import pytest

from lib.errors import UserError
from lib.experiment import TESTING_FILES
from lib.results import Results, file_names, safe_name

CLIMBING = ["../../x", "/etc/passwd", "a\\b", "..", "C:\\eye", "eye\n7"]


@pytest.fixture
def results(tmp_path):
    (tmp_path / "run").mkdir()
    return Results(tmp_path / "run", "run")


def files_of(folder):
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    )


def test_ids_of_foreign_files_write_nothing_outside(results, tmp_path):
    stack = np.zeros((len(CLIMBING), 1, 4, 4), np.uint8)
    results.save_pictures("segmentations", CLIMBING, stack)
    names = ["C__eye", "a_b", "etc_passwd", "eye_7", "image", "x"]
    written = [f"run/{TESTING_FILES}", *(f"run/segmentations/{name}.png" for name in names)]
    assert files_of(tmp_path) == sorted(written)


def test_ordinary_ids_stay_as_they_are():
    for name in ("21", "21_training", "eye.left", "Auge ä", "n" * 150):
        assert file_names([name]) == [name]
    assert file_names(["n" * 200]) == ["n" * 150]


def test_ids_whose_names_would_be_one_get_names_of_their_own():
    assert file_names(["../x", "y", "x", "X"]) == ["x", "y", "x_2", "X_3"]
    assert file_names(["x", "y"], taken=["X", "x_2"]) == ["x_3", "y"]


@pytest.mark.parametrize("ending", [".b", " b", "_b", "眼b", "\nb"])
def test_names_are_safe_wherever_they_are_cut(ending):
    for number in range(145, 151):
        for name in file_names(["n" * number + ending] * 2):
            assert safe_name(name) == name and len(name.encode()) <= 152


def test_a_test_removes_what_an_earlier_one_wrote_and_no_more(results, capsys):
    results.remove()
    assert capsys.readouterr().out == ""
    for name in ("performances.txt", "all_predictions.png", "segmentations/21.png"):
        path = results.file(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (results.folder / "segmentations" / "22.png").touch()
    (results.folder / "notes.txt").touch()
    results.require_room(["21"])
    results.remove()
    assert f"Removed the results of an earlier test in {results.folder}." in capsys.readouterr().out
    assert files_of(results.folder) == ["notes.txt", "segmentations/22.png"]


def test_a_list_from_elsewhere_takes_away_nothing_that_no_test_writes(results, tmp_path):
    (tmp_path / "ROC.png").write_text("mine")
    (results.folder / "notes.txt").write_text("mine")
    (results.folder / "link").symlink_to(tmp_path)
    results.file("all_originals.png").write_text("a test's")
    names = [
        "../ROC.png",
        str(tmp_path / "ROC.png"),
        "notes.txt",
        "link/ROC.png",
        "all_originals.png",
        "\0",
    ]
    (results.folder / ".testing_files.txt").write_bytes("\n".join(names).encode() + b"\xff\n")
    results.remove()
    assert (tmp_path / "ROC.png").exists()
    assert files_of(results.folder) == ["notes.txt"]


def test_what_a_killed_test_left_goes_and_what_a_training_writes_stays(results):
    results.file("segmentations/a.png").parent.mkdir()
    names = [".1_predictions.hdf5", "segmentations/.1_a.png", ".1_run_loss_curves.png"]
    for name in names:
        (results.folder / name).touch()
    results.remove()
    assert files_of(results.folder) == [".1_run_loss_curves.png"]


def test_files_of_trainings_of_any_name_are_no_results(tmp_path):
    names = ["all_images_loss_curves.png", ".1_images_all_loss_curves.png"]
    for name in names:
        (tmp_path / name).touch()
    results = Results(tmp_path, "all_images")
    results.require_room()
    results.remove()
    assert files_of(tmp_path) == sorted(names)
    results.save_grids({"originals": np.zeros((1, 1, 4, 4), np.uint8)}, 1, "all_test")
    results.remove()
    assert files_of(tmp_path) == sorted(names)


@pytest.mark.parametrize("name", ["ROC.png", "segmentations/21.png", "probabilities/21.png"])
def test_files_of_somebody_else_are_in_the_way(results, name):
    path = results.folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(UserError, match=f"no test of this project .* would replace: {name}."):
        results.require_room(["21"])
    results.remove()
    assert path.exists()


def test_results_from_before_there_was_a_list_are_known(results):
    with h5py.File(results.folder / "predictions.hdf5", "w") as file:
        file["settings"] = "{}"
    (results.folder / "ROC.png").touch()
    results.require_room(["21"])
    results.remove()
    assert files_of(results.folder) == []
