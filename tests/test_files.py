"""Tests of HDF5 files, PNG grids and of files that appear whole or not at all."""

import fcntl
import itertools
import os
import subprocess

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.files import (
    absolute_path,
    append_line,
    atomic_write,
    hdf5_files,
    load_hdf5,
    load_hdf5_extra,
    remove_left_overs,
    write_hdf5,
)
from lib.pictures import as_picture, group_images, visualize, with_legend
from lib.predictions import draw_outlines
from tests.fuzz.inputs import spoil
from tests.processes import require_refusal, run
from tests.small_data import problem_of

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)


# ---------------------------------------------------------------- written whole


def test_file_appears_at_its_place_only_at_the_end(tmp_path):
    path = tmp_path / "new folder" / "figures.txt"
    with atomic_write(path) as beside:
        beside.write_text("whole")
        assert not path.exists()
        assert beside.parent == path.parent
        assert beside.suffix == path.suffix
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["figures.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "figures.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as beside:
        beside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["figures.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space')"),
        RuntimeError("Disable slist on flush dest failure failed (errno = 28)"),  # when it closes
    ],
)
def test_full_disk_is_worded_and_leaves_nothing(tmp_path, error):
    def fill(path):
        with atomic_write(path) as beside:
            beside.write_text("half")
            raise error

    problem = problem_of(fill, tmp_path / "figures.txt")
    assert problem == f"Cannot write {tmp_path / 'figures.txt'}: the disk is full. Make room."
    assert os.listdir(tmp_path) == []


def test_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("a file")
    problem = problem_of(write_hdf5, tmp_path / "results" / "images.hdf5", IMAGES)
    assert problem.startswith(f"Cannot write {tmp_path / 'results' / 'images.hdf5'}: ")


def test_paths_are_absolute_and_know_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("elsewhere")
    assert absolute_path("~/a") == absolute_path("b/../a") == tmp_path / "a"
    assert absolute_path("link") == tmp_path / "link"  # the name that the user knows


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave an empty file at the place of a whole one."""
    done = []
    flush, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("flushed"), flush(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("moved"), move(*paths)))
    with atomic_write(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
        assert done == []
    append_line(tmp_path / "b.txt", "line\n")
    assert done == ["flushed", "moved", "flushed"]
    assert (tmp_path / "b.txt").read_text() == "line\n"


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    names = [f".{dead.pid}_a.hdf5", f".{os.getpid()}_a.hdf5", f".{dead.pid}_b.hdf5", ".x_a.hdf5"]
    for name in names:
        (tmp_path / name).touch()
    write_hdf5(tmp_path / "a.hdf5", IMAGES)
    assert sorted(os.listdir(tmp_path)) == sorted([*names[2:], "a.hdf5"])
    (tmp_path / f".{os.getpid()}_b.hdf5").touch()
    remove_left_overs(tmp_path, "b.hdf5")
    assert sorted(os.listdir(tmp_path)) == [".x_a.hdf5", "a.hdf5"]


@pytest.mark.parametrize("number, words", [(122, "quota"), (27, "ulimit -f"), (37, "no locks")])
def test_other_ends_of_room_are_told_apart(tmp_path, number, words):
    reason = "unable to lock file, " * (number == 37)

    def fail():
        with atomic_write(tmp_path / "a.hdf5"):
            raise OSError(f"{reason}errno = {number}")

    assert words in problem_of(fail)


# ---------------------------------------------------------------- HDF5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_hdf5_gives_back_what_was_written_in_its_type(tmp_path, dtype):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, IMAGES.astype(dtype))
    read = load_hdf5(path)
    np.testing.assert_array_equal(read, IMAGES)
    assert read.dtype == dtype


def test_hdf5_keeps_other_data_sets(tmp_path):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, IMAGES, ids=["21", "ünter"], settings="{}", second=IMAGES[:, :1], none=None)
    assert load_hdf5_extra(path, "ids") == ["21", "ünter"]
    assert load_hdf5_extra(path, "settings") == "{}"
    np.testing.assert_array_equal(load_hdf5_extra(path, "second"), IMAGES[:, :1])
    assert load_hdf5_extra(path, "none") is None


def test_hdf5_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, IMAGES)
    with pytest.raises(TypeError):
        write_hdf5(path, IMAGES, ids=[object()])
    np.testing.assert_array_equal(load_hdf5(path), IMAGES)
    assert os.listdir(tmp_path) == ["images.hdf5"]


def test_hdf5_files_that_belong_together_appear_together(tmp_path):
    with pytest.raises(ValueError, match="no more"), hdf5_files() as write:
        write(tmp_path / "a.hdf5", IMAGES)
        raise ValueError("no more")
    assert os.listdir(tmp_path) == []
    with hdf5_files() as write:
        for name in "ab":
            write(tmp_path / f"{name}.hdf5", IMAGES)
            assert not list(tmp_path.glob("[!.]*"))
    assert sorted(os.listdir(tmp_path)) == ["a.hdf5", "b.hdf5"]


def test_hdf5_without_room_is_told_and_does_not_crash(tmp_path):
    """HDF5 itself ends a process by a crash, behind its last line."""
    code = (
        "import numpy as np, sys\n"
        "from pathlib import Path\n"
        "from lib.errors import run_script\n"
        "from lib.files import write_hdf5\n"
        "from tests.faults import limit_files\n"
        "limit_files()\n"
        "array = np.ones((9, 1, 99, 99))\n"
        "sys.exit(run_script(lambda: write_hdf5(Path('a.hdf5'), array, ids=['a'] * 9)))\n"
    )
    require_refusal(run("-c", code, cwd=tmp_path), "Cannot write a.hdf5", "ulimit -f")
    assert os.listdir(tmp_path) == []


def test_missing_hdf5(tmp_path):
    problem = problem_of(load_hdf5, tmp_path / "images.hdf5")
    assert problem.startswith(f"{tmp_path / 'images.hdf5'} does not exist. Prepare the data first")


@pytest.mark.parametrize("load", [load_hdf5, lambda path: load_hdf5_extra(path, "ids")])
def test_truncated_hdf5(tmp_path, load):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, IMAGES)
    path.write_bytes(path.read_bytes()[:-1])
    problem = problem_of(load, path)
    assert f"{path} is not a whole HDF5 file; it may be cut off" in problem
    assert f"({path.stat().st_size} bytes)" in problem


def test_text_in_place_of_hdf5(tmp_path):
    path = tmp_path / "images.hdf5"
    path.write_text("<html>404</html>")
    assert "is not a whole HDF5 file" in problem_of(load_hdf5, path)


@pytest.mark.parametrize("load", [load_hdf5, lambda path: load_hdf5_extra(path, "ids")])
def test_hdf5_that_another_program_writes_is_in_use(tmp_path, load):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, IMAGES)
    with path.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does
        problem = problem_of(load, path)
    assert problem.startswith(f"{path} is in use: another program has it open for writing. Wait")
    np.testing.assert_array_equal(load_hdf5(path), IMAGES)


def test_hdf5_without_the_data_set(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        file["images"] = IMAGES
    assert "holds no data set `image`, but ['images']." in problem_of(load_hdf5, path)
    with h5py.File(path, "w"):
        pass
    assert "holds no data set `image`, but nothing." in problem_of(load_hdf5, path)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (0, 3, 4, 5)])
def test_hdf5_of_another_shape(tmp_path, shape):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, np.zeros(shape))
    problem = problem_of(load_hdf5, path)
    assert "must hold numbers in the shape (num_images, channels, height, width)." in problem
    assert f"shape {shape}" in problem


def test_hdf5_of_strings(tmp_path):
    path = tmp_path / "images.hdf5"
    write_hdf5(path, [[[["a", "b"]]]])
    problem = problem_of(load_hdf5, path)
    assert "`image` must hold numbers" in problem
    assert "shape (1, 1, 1, 2)" in problem


def test_hdf5_with_a_group_in_place_of_the_data_set(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        file["image/first"] = IMAGES
    problem = problem_of(load_hdf5, path)
    assert "`image` must hold numbers" in problem
    assert 'HDF5 group "/image"' in problem


ELSEWHERE = ("external link", "soft link", "up", "reference", "outside", "virtual", "opaque")


@pytest.mark.parametrize("kind", (*ELSEWHERE, "huge", "huge chunk"))
@pytest.mark.parametrize("name", ["image", "ids"])
def test_what_leads_out_of_a_file_or_claims_too_much_is_refused(tmp_path, name, kind):
    path, other = tmp_path / "images.hdf5", tmp_path / "other.hdf5"
    write_hdf5(path, IMAGES, ids=["a", "b"])
    write_hdf5(other, IMAGES, secret=IMAGES)
    with h5py.File(path, "a") as file:
        file["secret"] = IMAGES
        spoil(file, name, kind, other)
    words = {"huge": "claims far more", "huge chunk": "claims far more"}
    words |= dict.fromkeys(("external link", "soft link", "up"), "leads elsewhere by a link: ")
    read = load_hdf5 if name == "image" else lambda path: load_hdf5_extra(path, name)
    assert words.get(kind, "refers to something outside") in problem_of(read, path)


@pytest.mark.parametrize(
    "error, words",
    [
        (PermissionError(13, "x"), "the right to read it"),
        (OSError(37, "unable to lock file"), "HDF5_USE_FILE_LOCKING=FALSE"),
        (MemoryError(), "does not fit into the memory"),
    ],
)
def test_what_keeps_hdf5_from_being_read_is_told_apart(tmp_path, monkeypatch, error, words):
    def fail(*arguments):
        raise error

    write_hdf5(tmp_path / "images.hdf5", IMAGES)
    monkeypatch.setattr(h5py, "File", fail)
    assert words in problem_of(load_hdf5, tmp_path / "images.hdf5")


# ---------------------------------------------------------------- pictures


def test_grid_lays_images_out_row_by_row_and_leaves_the_rest_black():
    # Three images of 1 x 2 pixels, two in a row; the fourth place stays black:
    #   1 2 | 3 4
    #   5 6 | 0 0
    images = np.array([1, 2, 3, 4, 5, 6], np.uint8).reshape(3, 1, 1, 2)
    grid = group_images(images, 2)
    assert grid.shape == (2, 4, 1)
    np.testing.assert_array_equal(grid[..., 0], [[1, 2, 3, 4], [5, 6, 0, 0]])


def test_grid_keeps_channels_and_type_of_images_that_are_not_square():
    grid = group_images(IMAGES, 1)  # two images of 4 x 5 below each other
    assert grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[:4], IMAGES[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(grid[4:], IMAGES[1].transpose(1, 2, 0))


def test_grid_is_no_wider_than_its_images():
    assert group_images(IMAGES, 9).shape == (4, 2 * 5, 3)


def test_floats_are_rounded_to_bytes_and_clipped(tmp_path):
    # 0.5 * 255 = 127.5, which rounds to the even 128; beyond [0, 1] the ends hold.
    visualize(np.array([[0, 0.5, 1, -3, 7]])[..., np.newaxis], tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), [[0, 128, 255, 0, 255]])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (1, 1, 5), (3, 5, 1), (3, 4, 5)])
def test_outlines_can_be_drawn_on_pictures_of_any_size(shape):
    picture = as_picture(np.zeros(shape, np.uint8))
    draw_outlines(picture, np.ones(shape[1:], np.uint8))
    assert picture.any()


def test_colour_picture_of_bytes_is_saved_as_it_is(tmp_path):
    picture = IMAGES[0].transpose(1, 2, 0)
    visualize(picture, tmp_path / "colour.png")
    with Image.open(tmp_path / "colour.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_legend_shows_every_colour_and_breaks_its_lines():
    colours = [(0, 0, 0), (10, 20, 30), (200, 100, 0)]
    names = ["a", "name", "b"]
    wide, narrow = (with_legend(np.zeros((3, 9, w), np.uint8), names, colours) for w in (300, 80))
    assert wide.shape == (3, 29, 300) and narrow.shape[1] > 29 and narrow.shape[2] == 80
    for picture in (wide, narrow):
        assert set(colours) <= set(map(tuple, picture.reshape(3, -1).T.tolist()))
    longer = with_legend(np.zeros((3, 9, 80), np.uint8), ["a name of many letters"], colours[:1])
    assert (
        longer.shape[2] > 80 and (longer[:, :9, 80:] == 255).all() and not longer[:, :9, :80].any()
    )


def test_a_legend_knows_umlauts():
    texts = [with_legend(np.zeros((3, 9, 80), np.uint8), [name], [(0, 0, 0)]) for name in "ßµ□"]
    for text, other in itertools.combinations(texts, 2):
        assert (text != other).any()
