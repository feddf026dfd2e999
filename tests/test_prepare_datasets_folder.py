"""A folder of images and labels becomes HDF5 files; what is wrong with it is said, all at once."""

import os
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

import prepare_datasets_folder
from lib.errors import run_script
from lib.image_folder import OBJECT_COLOURS
from lib.image_sets import ImageSet
from tests.conftest import write_image

SIZE = (24, 20)  # height, width


@pytest.fixture
def pair(tmp_path, rng):
    """A function that writes an image and its label, of two classes where nothing else is said."""

    def write(name, folder="training", image=None, label=None, ending="png"):
        if image is None:
            image = rng.integers(100, 256, (*SIZE, 3), dtype=np.uint8)
        if label is None:
            label = np.eye(*image.shape[:2], dtype=np.uint8)
        for kind, pixels in (("images", image), ("labels", label)):
            path = tmp_path / "mine" / folder / kind / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if ending == "png":
                Image.fromarray(pixels).save(path)
            else:
                tifffile.imwrite(path, pixels)
        return tmp_path / "mine"

    return write


@pytest.fixture
def prepared(tmp_path, monkeypatch, capsys):
    """A function that runs the script on ./mine, and gives the status and all that it printed."""

    def run(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["prepare_datasets_folder.py", "mine", *words])
        status = run_script(prepare_datasets_folder.main)
        output, errors = capsys.readouterr()
        if status:
            assert not (tmp_path / "mine_datasets").exists(), "nothing may be written"
            return status, errors
        return status, output

    return run


def ids_of(tmp_path):
    found = {}
    for path in sorted((tmp_path / "mine_datasets").glob("*.hdf5")):
        with ImageSet(path) as images:
            found[path.stem] = images.ids
    return found


# ---------------------------------------------------------------- what becomes of a folder


def test_folders_of_subsets_with_other_names_and_without_test_labels(pair, prepared, tmp_path):
    folder = pair("a", "train")
    pair("b", "val")
    pair("c", "Test")
    (folder / "Test" / "labels" / "c.png").unlink()
    (folder / "Test" / "labels").rmdir()
    (folder / "train" / "labels").rename(folder / "train" / "masks")
    for name in (".DS_Store", "._a.png", "Thumbs.db"):
        (folder / "train" / "images" / name).write_bytes(b"no image")
    status, output = prepared()
    assert status == 0, output
    assert ids_of(tmp_path) == {"test": ["c"], "training": ["a"], "validation": ["b"]}
    assert "test: no labels" in output and "passed over Thumbs.db" in output
    assert "background 95.83%, foreground 4.17%" in output  # 20 of 480 pixels


def test_files_of_others_are_not_replaced(pair, prepared, tmp_path):
    pair("a", "")
    output = tmp_path / "out"
    output.mkdir()
    (output / "test.hdf5").write_text("other data")
    (output / "preview.png").write_text("another picture")
    (output / "notes.txt").touch()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    status, errors = prepared("--output", "out")
    assert status == 1 and "files that no preparation wrote" in errors
    assert "would replace: test.hdf5. Move them" in errors
    (output / "test.hdf5").unlink()
    assert "would replace: preview.png. Move them" in prepared("--output", "out")[1]
    del before["test.hdf5"]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    (output / "preview.png").unlink()
    for _ in range(2):
        assert prepared("--output", "out")[0] == 0
    assert sorted(os.listdir(output)) == ["notes.txt", "preview.png", "training.hdf5"]


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_the_folder_of_images_is_no_place_for_results(pair, prepared, kind):
    folder = pair("a", "")
    status, errors = prepared("--output", f"mine/{kind}")
    assert status == 1 and f"{folder / kind} holds the images, or their labels" in errors
    assert os.listdir(folder / kind) == ["a.png"]


def test_images_are_held_out_by_name(pair, prepared, tmp_path):
    for number in range(1, 13):
        pair(f"cell{number}", "")
    assert prepared("--test", "every:5", "--validation", "last:3")[0] == 0
    rest = [f"cell{n}" for n in (1, 2, 3, 4, 6, 7, 8)]
    assert ids_of(tmp_path) == {
        "test": ["cell5", "cell10"],
        "validation": ["cell9", "cell11", "cell12"],
        "training": rest,
    }
    status, output = prepared("--validation", "0.25")
    # The files of an earlier preparation that have no images now are gone, which is said.
    words = "There are no images for test: test.hdf5 of an earlier run is removed."
    assert status == 0 and words in output
    assert list(ids_of(tmp_path)) == ["training", "validation"]
    assert ids_of(tmp_path)["validation"] == ["cell10", "cell11", "cell12"]


def test_sizes_bits_and_grey_may_be_mixed(pair, prepared, tmp_path, rng):
    pair("large", image=rng.integers(0, 256, (300, 200, 3), dtype=np.uint8))
    pair("small", image=rng.integers(0, 256, (9, 64), dtype=np.uint8))
    pair("deep", image=rng.integers(500, 4000, (30, 40), dtype=np.uint16))
    status, output = prepared()
    assert status == 0, output
    assert "2 grey images among 1 in colours are stored in colours: deep.png, small.png" in output
    assert "8 bits from 0 to 255; each image of 16 bits from its 0.1 to its 99.9 perc" in output
    with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
        assert dict(zip(images.ids, images.shapes)) == {
            "deep": (30, 40),
            "large": (300, 200),
            "small": (9, 64),
        }
        deep = np.asarray(images.images[images.ids.index("deep")])
        assert images.num_channels == 3 and (deep.min(), deep.max()) == (0, 1)
        np.testing.assert_array_equal(deep[0], deep[2])
    preview = np.asarray(Image.open(tmp_path / "mine_datasets" / "preview.png"))
    assert {(0, 0, 0), (230, 159, 0)} <= set(map(tuple, preview[264:520].reshape(-1, 3)))


@pytest.mark.parametrize("metadata", [{}, {"axes": "CYX"}])
def test_images_of_five_channels(pair, prepared, tmp_path, rng, metadata):
    folder = pair("a", image=np.zeros(SIZE, np.uint8), ending="tif")
    channels = rng.integers(0, 60_000, (5, *SIZE), dtype=np.uint16)
    tifffile.imwrite(folder / "training" / "images" / "a.tif", channels, metadata=metadata)
    status, output = prepared()
    assert status == 0, output
    assert ("Read as channels, though the file does not say so: a.tif" in output) == (not metadata)
    with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
        assert images.images[0].shape == (5, *SIZE)
        assert images.images[0][...].max(axis=(1, 2)).tolist() == [1] * 5  # each by itself


@pytest.mark.parametrize("pixels", [np.zeros(SIZE, np.float32), np.full(SIZE, -1, np.int16)])
def test_other_numbers_than_8_and_16_bits_are_refused(pair, prepared, pixels):
    pair("a", image=pixels, ending="tif")
    status, errors = prepared()
    assert status == 1 and "a.tif must have 8 or 16 bits a channel. Received: " in errors


def test_three_slices_that_were_written_as_colours_are_channels_and_said_so(pair, prepared, rng):
    folder = pair("a", image=np.zeros(SIZE, np.uint8), ending="tif")
    slices = rng.integers(0, 9, (3, *SIZE), dtype=np.uint8)
    path = folder / "training" / "images" / "a.tif"
    tifffile.imwrite(path, slices, photometric="rgb", planarconfig="separate")
    assert "though the file does not say so: a.tif" in prepared("--check")[1]


def test_one_size_for_all(pair, prepared, tmp_path):
    pair("a")
    assert prepared("--size", "10x12")[0] == 0
    with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
        assert images.shapes == [(12, 10)]
        # The diagonal of the label, every second pixel of it.
        np.testing.assert_array_equal(images.labels[0], np.eye(12, 10)[:, :10])


@pytest.mark.parametrize("words", [[], ["--check"]])
def test_objects_that_are_lost_by_scaling_are_counted(pair, prepared, tmp_path, words):
    label = np.zeros(SIZE, np.uint8)
    label[0::2, 0::4] = 1 + np.arange(60).reshape(12, 5)  # pixels that every second one passes over
    label[13:23, 9:17] = 61  # over 10 of the 60
    pair("a", label=label)
    status, output = prepared("--instances", "--size", "10x12", *words)
    assert status == 0
    assert "All images and labels are scaled to 10 x 12 pixels (--size)." in output
    # Rows and columns 1, 3, ... are left: 5 x 4 pixels of the large object, of which 3 x 2 are no
    # border; 120 in all.
    assert "classes: background 83.33%, object 5.00%, border 11.67%" in output
    assert "  1 objects\n  NOTE: 50 of 51 objects are lost at 10 x 12 pixels." in output
    if not words:
        with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
            assert images.image_class_counts.tolist() == [[100, 6, 14]]
            assert np.unique(images.instances[0]).tolist() == [0, 61]
        preview = np.asarray(Image.open(tmp_path / "mine_datasets" / "preview.png"))
        # Scaled as they are written: 12 x 10 pixels on 256 x 213.
        colours = preview[260:516, :213].reshape(-1, 3)
        share = np.mean((colours == OBJECT_COLOURS[2]).all(1))
        assert abs(share - 14 / 120) < 0.01


@pytest.mark.parametrize("words", [[], ["--check"]])
def test_what_is_told_of_classes_is_what_scaling_leaves(pair, prepared, words):
    label = np.zeros(SIZE, np.uint8)
    label[:, 10:], label[4, 4] = 1, 2
    pair("a", label=label)
    status, errors = prepared("--size", "1x1", *words)
    assert status == 1 and "Received: class 1 at 1 x 1 pixels (--size)." in errors
    status, output = prepared("--size", "10x12", *words)
    assert status == 0 and "class 0 50.00%, class 1 50.00%, class 2 0.00%\n" in output
    assert "NOTE: lost from training at 10 x 12 pixels: class 2" in output
    assert "never in training" not in output


def test_object_numbers_become_three_classes(pair, prepared, tmp_path):
    label = np.zeros(SIZE, np.uint16)
    label[2:9, 2:9], label[9:16, 2:9] = 40_000, 65_535
    pair("a", label=label)
    status, output = prepared("--instances")
    assert status == 0 and "2 objects" in output
    with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
        assert images.has_instances and images.classes.names == ("background", "object", "border")
        np.testing.assert_array_equal(images.instances[0], label)
        np.testing.assert_array_equal(np.asarray(images.labels[0]) > 0, label > 0)


def test_forty_thousand_objects_are_allowed(pair, prepared, tmp_path):
    numbers = np.arange(1, 40_001, dtype=np.uint16).reshape(200, 200).repeat(2, 0).repeat(2, 1)
    pair("a", image=np.full(numbers.shape, 200, np.uint8), label=numbers)
    status, output = prepared("--instances", "--check")
    assert status == 0 and "40000 objects" in output
    status, output = prepared()
    assert status == 1 and "add --instances" in output


def test_a_class_that_never_occurs_is_noted(pair, prepared):
    (pair("a") / "classes.txt").write_text("ground\nroad\ncar\n")
    status, output = prepared("--check")
    assert status == 0 and "NOTE: never in training: car" in output


def test_what_a_killed_preparation_left_half_written_goes(pair, prepared, tmp_path):
    pair("a")
    folder = tmp_path / "mine_datasets"
    folder.mkdir()
    for name in ("training.hdf5", "preview.png", "probe"):
        (folder / f".{2**31}_{name}").write_bytes(b"half")  # no process has such a number
    assert prepared()[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["preview.png", "training.hdf5"]


def test_a_check_writes_nothing(pair, prepared, tmp_path):
    pair("a")
    status, output = prepared("--check")
    assert status == 0 and "Nothing was written" in output
    assert not (tmp_path / "mine_datasets").exists()


def test_copies_and_dark_images_are_noted(pair, prepared):
    image = np.full((*SIZE, 3), 9, np.uint8)
    pair("a", image=image)
    pair("b", "test", image=image)
    output = prepared("--check")[1]
    assert "NOTE: 1 images of test are also in another subset, pixel by pixel: b.png = a" in output
    assert "NOTE: 2 images use less than a quarter of the range" in output


def test_paths_with_number_signs_and_names_that_are_not_utf_8(pair, prepared, tmp_path):
    folder = pair("a #2 ;x")
    for kind in ("images", "labels"):
        path = folder / "training" / kind / "a #2 ;x.png"
        path.rename(path.with_name("M\udcfcller #2.png"))
    assert prepared("--output", "mine_datasets")[0] == 0
    assert ids_of(tmp_path) == {"training": ["Müller #2"]}


def test_images_are_turned_as_the_camera_says(pair, prepared, tmp_path):
    folder = pair("a", label=np.zeros(SIZE, np.uint8))
    path = folder / "training" / "images" / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    status, errors = prepared()
    assert status == 1 and "must have the size of a.png, 24 x 20" in errors and "EXIF" in errors


def test_an_image_that_a_camera_turned_by_180_degrees_is_noted(pair, prepared, tmp_path):
    folder = pair("a")
    path = folder / "training" / "images" / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(path).save(path, exif=exif)
    status, output = prepared()
    assert status == 0 and "NOTE: turned or mirrored, as the camera noted (EXIF): a.png." in output


@pytest.mark.parametrize("form", [np.uint8, bool])
def test_numbers_of_labels_count_as_stored_also_where_0_is_white(pair, prepared, tmp_path, form):
    label = np.eye(*SIZE, dtype=np.uint8) * 255
    folder = pair("a", label=label)
    path = folder / "training" / "labels" / "a.png"
    tifffile.imwrite(path.with_suffix(".tif"), label.astype(form), photometric="miniswhite")
    path.unlink()
    assert prepared()[0] == 0
    with ImageSet(tmp_path / "mine_datasets" / "training.hdf5") as images:
        np.testing.assert_array_equal(images.labels[0], np.eye(*SIZE, dtype=np.uint8))


def test_masks_with_1_beside_masks_with_255_are_noted(pair, prepared):
    for name, highest in (("a", 1), ("b", 255), ("c", 255)):
        pair(name, label=np.eye(*SIZE, dtype=np.uint8) * np.uint8(highest))
    status, output = prepared("--test", "last:1")
    assert status == 0 and "NOTE: b.png, c.png hold 255, which is ignored, and no 1" in output
    assert "hold 255" not in prepared("--test", "last:1", "--ignore", "255")[1]


def test_colours_that_one_label_alone_has_are_noted(pair, prepared, tmp_path):
    label = np.zeros((*SIZE, 3), np.uint8)
    label[:9] = (255, 0, 0)
    smoothed, mistyped = label.copy(), label.copy()
    smoothed[9], mistyped[:4] = (127, 0, 0), (254, 0, 0)
    folder = pair("a", label=smoothed)
    pair("b", "test", label=mistyped)
    assert "one label alone" not in prepared("--check")[1], "two labels tell nothing"
    pair("c", label=label)
    status, output = prepared("--check")
    assert status == 0
    places = [f"{folder}/training/labels/a.png", f"{folder}/test/labels/b.png"]
    words = "NOTE: colours that one label alone has: {} (#7f0000), {} (#fe0000). If it is a"
    assert words.format(*places) in output and "classes.txt, which refuses all others." in output
    assert "(#7f0000)" not in prepared("--check", "--ignore", "#7f0000")[1]
    assert "(#fe0000)" not in prepared("--check", "--ignore", "2")[1]


def test_a_stray_number_is_noted_with_its_label_and_what_to_do(pair, prepared):
    label = np.zeros(SIZE, np.uint8)
    label[:9, :9], label[9:, 9:] = 1, 2
    stray = label.copy()
    stray[0, 0], stray[-1, 0] = 7, 255
    folder = pair("a", label=label)
    pair("b", "test", label=stray)
    pair("c", "test", label=label)
    status, output = prepared("--check")
    assert status == 0
    reason = f". The number 7 is in {folder}/test/labels/b.png. If it is a mistake, correct the lab"
    training, test = (line for line in output.splitlines() if "NOTE: never in" in line)
    assert f"training: class 3, class 4, class 5, class 6, class 7{reason}" in training
    assert f"test: class 3, class 4, class 5, class 6{reason}" in test
    assert "classes.txt, one a line, which refuses others" in test
    # The number in the file, also where other classes have moved up.
    assert reason in prepared("--check", "--ignore", "1")[1]
    assert reason in prepared("--check", "--ignore", "7")[1]
    pair("a", label=np.full(SIZE, 2, np.uint8) - (label > 0))
    pair("b", "test", label=label)
    (folder / "classes.txt").write_text("ground\nroad\ncar\n")
    output = prepared("--check")[1]
    assert "never in training: ground\n" in output


def test_numbers_that_stand_for_several_objects_are_noted(pair, prepared):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    cells = np.where((rows % 6 > 0) & (columns % 5 > 0), 1 + rows // 6 * 4 + columns // 5, 0)
    cells = cells.astype(np.uint8)
    folder = pair("a", label=cells)
    assert "NOTE: most numbers" not in prepared("--instances", "--check")[1]
    pair("b", label=np.where(cells > 0, 1 + cells % 2, 0).astype(np.uint8))
    pair("c", label=cells % 4)
    status, output = prepared("--instances", "--check")
    paths = ", ".join(f"{folder}/training/labels/{name}.png" for name in "bc")
    assert status == 0
    assert f"NOTE: most numbers in {paths} stand for several pieces that lie apart." in output
    assert "class numbers are prepared without --instances." in output


# ---------------------------------------------------------------- what is refused


def test_training_masks_whose_only_class_is_not_ignored_are_refused(pair, prepared):
    pair("a", label=np.eye(*SIZE, dtype=np.uint8) * np.uint8(255))
    pair("b", "test")
    status, errors = prepared()
    assert status == 1
    assert "must show two classes or more, besides what is ignored. Received: class 0" in errors
    assert "a.png hold 255, which is ignored, and no 1" in errors


def test_all_problems_are_listed_at_once(pair, prepared, tmp_path, rng):
    folder = pair("good")
    pair("size", label=np.eye(21, dtype=np.uint8))
    pair("five", label=np.full(SIZE, 5, np.uint8))
    pair("alone")
    (folder / "training" / "labels" / "alone.png").unlink()
    lossy = folder / "training" / "labels" / "lossy.jpg"
    pair("lossy")
    Image.open(lossy.with_suffix(".png")).save(lossy)
    lossy.with_suffix(".png").unlink()
    (folder / "classes.txt").write_text("a\nb\nc\na\n")
    status, errors = prepared()
    assert status == 1 and "images have no label: alone.png" in errors
    pair("alone")
    status, errors = prepared()
    assert status == 1 and "ERROR: 3 problems" in errors
    assert "lists the class a twice" in errors
    assert "size.png must have the size of size.png, 20 x 24 pixels" in errors
    assert "lossy.jpg must be a label image saved without loss" in errors
    (folder / "classes.txt").write_text("a\nb\nc\n")
    errors = prepared()[1]
    assert "five.png has the number 5 at row 0, column 0. classes.txt lists 3 classes" in errors
    assert "ERROR: 3 problems" in errors


def test_channels_of_three_and_four_do_not_mix(pair, prepared, rng):
    folder = pair("a", ending="tif", image=rng.integers(0, 9, (*SIZE, 3), dtype=np.uint8))
    pair("b", ending="tif", image=rng.integers(0, 9, SIZE, dtype=np.uint8))
    four = rng.integers(0, 9, (4, *SIZE), dtype=np.uint8)
    tifffile.imwrite(folder / "training" / "images" / "b.tif", four, photometric="minisblack")
    status, errors = prepared()
    assert status == 1 and "same channels. Received: 3 in a.tif; 4 in b.tif" in errors


def test_an_unlisted_colour_is_named(pair, prepared):
    label = np.zeros((*SIZE, 3), np.uint8)
    label[:4], label[7, 11] = (200, 0, 0), (200, 9, 0)
    (pair("a", label=label) / "classes.txt").write_text("ground #000000\nroof #c80000\n")
    status, errors = prepared()
    assert status == 1 and "colour #c80900 at row 7, column 11, which is not in" in errors


def test_duplicates_folders_links_and_pages(pair, prepared, tmp_path, rng):
    folder = pair("a") / "training" / "images"
    write_image(folder / "a.bmp", np.zeros(SIZE, np.uint8))
    assert "both have the id a" in prepared()[1]
    (folder / "a.bmp").unlink()
    (folder / "old.tif").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")
    errors = prepared()[1]
    assert "is a folder, but is named like an image" in errors and "is a link to nowhere" in errors
    (folder / "old.tif").rmdir()
    (folder / "gone.png").unlink()
    first, second = (Image.fromarray(rng.integers(0, 9, SIZE, dtype=np.uint8)) for _ in "ab")
    first.save(folder / "a.png", save_all=True, append_images=[second])
    assert "must hold one image. Received: 2 pages" in prepared()[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--test", "every:1"], "--test must be last:N, every:N or a share"),
        (["--test", "last:2"], "hold out some of the 2 images, not all"),
        (["--test", "0.0"], "Received: 0.0"),
        (["--validation", "1.5"], "Received: 1.5"),
        (["--size", "256"], "--size must be WIDTHxHEIGHT in pixels, like 256x256"),
        (["--ignore", "1"], "at least two classes"),
        (["--classes", "none.txt"], "none.txt cannot be read: No such file"),
        (["--instances"], "must hold a number for each object. Received: one number for all"),
        (["--instances", "--ignore", "1"], "does not go with --classes or --ignore"),
    ],
)
def test_options_that_cannot_be_meant(pair, prepared, words, message):
    label = np.zeros(SIZE, np.uint8)
    label[:3, :3] = label[9:14, 9:14] = 255
    for name in "ab":
        pair(name, label=label)
    status, errors = prepared(*words)
    assert status == 1 and message in errors


def test_a_folder_that_is_no_such_folder(pair, prepared, tmp_path):
    assert "does not exist. Give the folder of your images" in prepared()[1]
    pair("a", "test")
    status, errors = prepared()
    assert status == 1 and "must hold training/images and training/labels" in errors
    assert "Found there: test" in errors
    pair("a", "train")
    pair("a", "training")
    assert "holds train and training, which are the same" in prepared()[1]


@pytest.mark.parametrize(
    "subsets, words",
    [(["test"], "images beside test."), (["Train", "val"], "images beside Train and val.")],
)
def test_images_beside_folders_of_subsets_are_named(pair, prepared, tmp_path, subsets, words):
    folder = pair("a", "")
    for subset in subsets:
        pair("b", subset)
    status, errors = prepared()
    assert status == 1
    assert f"{folder} must hold images by subset, or images alone. Received: {words}" in errors


def test_options_and_folders_contradict_each_other(pair, prepared):
    pair("a")
    pair("b", "test")
    assert "but there is the folder" in prepared("--test", "last:1")[1]
