"""Sequences of the Cell Tracking Challenge become HDF5 files; what is wrong with them is said."""

import shutil
import sys

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

import prepare_datasets_CTC
from lib.errors import UserError, run_script
from lib.instances import carve_touching
from lib.weight_map import class_weights, weight_map
from tests.small_sequences import SIDE, save, write_hard_sequences, write_sequence

FILES = {"imgs_train", "instances_train", "groundTruth_train", "weightMaps_train"}
FILES |= {"imgs_test", "instances_test"}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """01 with silver truth and three frames of gold, 02 with gold; never changed."""
    folder = tmp_path_factory.mktemp("sequences")
    objects = write_sequence(folder, "01", 5, kind="ST", seed=1)[1]
    for number in (0, 3):
        gold = np.where(objects[number] > 0, objects[number] + 100, 0).astype(np.uint16)
        save(folder / f"01_GT/SEG/man_seg{number:03d}.tif", gold)
    partial = np.where(objects[4] == objects[4].max(), 7, 0).astype(np.uint16)
    save(folder / "01_GT/SEG/man_seg004.tif", partial)
    write_sequence(folder, "02", 2, seed=2)
    return folder


@pytest.fixture
def folder(sequences, tmp_path):
    """A copy of the sequences, to be spoilt."""
    shutil.copytree(sequences, tmp_path / "CTC")
    return tmp_path / "CTC"


def prepared(folder, output, *words):
    prepare_datasets_CTC.prepare(folder, output, *words)
    arrays = {}
    for path in output.iterdir():
        with h5py.File(path) as file:
            arrays[path.stem.removeprefix("CTC_dataset_")] = file["image"][:, 0]
            ids = file["ids"].asstr()[...].tolist()
            arrays[path.stem.removeprefix("CTC_dataset_") + "_ids"] = ids
            if "labelled" in file:
                arrays["labelled_" + path.stem[-5:].strip("_")] = file["labelled"][...].tolist()
    return arrays


def problems_of(folder, *words):
    output = folder.parent / "out"
    with pytest.raises(UserError) as error:
        prepare_datasets_CTC.prepare(folder, output, *words)
    assert not output.exists(), "nothing may be written"
    return error.value.problems


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


# ---------------------------------------------------------------- what is written


def test_gold_is_taken_where_it_is_whole_else_silver(sequences, tmp_path, capsys):
    arrays = prepared(sequences, tmp_path)
    assert {name for name in arrays if name in FILES} == FILES
    kinds = ["GT", "ST", "ST", "GT", "ST"]
    for number, kind in enumerate(kinds):
        truth = read(sequences / f"01_{kind}/SEG/man_seg{number:03d}.tif")
        np.testing.assert_array_equal(arrays["instances_train"][number], truth)
        frame = read(sequences / f"01/t{number:03d}.tif")
        np.testing.assert_array_equal(arrays["imgs_train"][number], frame)
    assert arrays["imgs_train_ids"] == [f"01_{number:03d}" for number in range(5)]
    output = capsys.readouterr().out
    assert "Frame 01_004: the gold truth has 1 objects, the silver truth" in output
    assert "5 frames, 01_000 to 01_004: 2 gold truth, 3 silver truth" in output
    assert "a border of 2 pixels, 1 of each" in output


def test_masks_in_place_of_numbers_are_refused(folder):
    for path in (folder / "02_GT/SEG").iterdir():
        save(path, (read(path) > 0) * np.uint16(255))
    (problem,) = problems_of(folder)
    assert "In the 2 annotated frames to test on (02_000 to 02_001) every object must" in problem
    assert "Received: one number for all of a frame." in problem


def test_numbers_that_stand_for_several_objects_are_noted(folder, tmp_path, capsys):
    prepared(folder, tmp_path / "before")
    assert "NOTE: most numbers" not in capsys.readouterr().out
    classes = np.zeros((SIDE, SIDE), np.uint16)
    classes[5:15, 5:15] = classes[5:15, 35:45] = 1
    classes[35:45, 5:15] = classes[35:45, 35:45] = 2
    save(tmp_path / "images/a.tif", read(folder / "01/t000.tif"))
    save(tmp_path / "labels/a.tif", classes)
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    prepared(tmp_path, tmp_path / "pair", "--training-pair", *pair)
    words = "NOTE: most numbers in a stand for several pieces that lie apart. Each object needs"
    assert words in capsys.readouterr().out


def test_numbers_count_as_stored_also_where_0_is_white(folder, tmp_path):
    expected = prepared(folder, tmp_path / "expected")
    for path in (folder / "01_ST/SEG").iterdir():
        tifffile.imwrite(path, read(path), photometric="miniswhite")
    for name, array in prepared(folder, tmp_path / "found").items():
        np.testing.assert_array_equal(array, expected[name])


def test_labels_are_carved_and_weights_follow_the_objects_before(sequences, tmp_path):
    arrays = prepared(sequences, tmp_path, "--w0", "7", "--sigma", "3")
    objects = arrays["instances_train"]
    cells = np.stack([carve_touching(one) for one in objects])
    assert ((objects > 0) & ~cells).any(), "some cells touch"
    np.testing.assert_array_equal(arrays["groundTruth_train"], cells * 255)
    balance = class_weights(cells)
    for label, one, weights in zip(cells, objects, arrays["weightMaps_train"]):
        expected = weight_map(label, balance, 7, 3, instance_map=one)
        np.testing.assert_allclose(weights, expected, rtol=1e-6)
        # On a carved pixel d1 = 0 and d2 = 1.
        carved = (one > 0) & ~label
        assert weights[carved].min() >= balance[0] + 7 * np.exp(-4 / 18) - 1e-3


def test_border_and_labels_can_be_chosen(sequences, tmp_path):
    arrays = prepared(sequences, tmp_path / "0", "--border", "0", "--labels", "ST")
    np.testing.assert_array_equal(arrays["groundTruth_train"] > 0, arrays["instances_train"] > 0)
    assert arrays["labelled_test"] == [False, False], "02 has no silver truth"
    gold = prepared(sequences, tmp_path / "1", "--border", "2", "--labels", "GT")
    assert gold["imgs_train_ids"] == ["01_000", "01_003", "01_004"]
    carved = carve_touching(gold["instances_train"][0], 2)
    np.testing.assert_array_equal(gold["groundTruth_train"][0] > 0, carved)


def test_a_border_that_leaves_nothing_is_named(tmp_path):
    halves = np.repeat(np.array([1, 2], np.uint16), SIDE // 2) + np.zeros((SIDE, 1), np.uint16)
    for path, image in (("images/a.tif", halves.astype(np.uint8)), ("labels/a.tif", halves)):
        save(tmp_path / path, image)
    pair = ("--training-pair", str(tmp_path / "images"), str(tmp_path / "labels"))
    (problem,) = problems_of(tmp_path, *pair, "--border", str(SIDE))
    assert problem.startswith(f"--border {SIDE} leaves nothing of any object that trains.")


def test_skipped_annotations_are_not_used(sequences, tmp_path):
    arrays = prepared(sequences, tmp_path, "--skip", "01:004", "02:001")
    assert arrays["imgs_train_ids"] == ["01_000", "01_001", "01_002", "01_003"]
    assert arrays["imgs_test_ids"] == ["02_000", "02_001"], "it is still predicted"
    assert arrays["labelled_test"] == [True, False]


def test_sequences_can_be_chosen(sequences, tmp_path, capsys):
    arrays = prepared(sequences, tmp_path, "--training", "02", "--test", "01")
    assert arrays["imgs_train_ids"] == ["02_000", "02_001"]
    assert arrays["labelled_test"] == [True, False, False, True, True], "gold alone is scored"
    # 1 object, where the others have several.
    assert "If it is annotated in part only, leave it out: --skip 01:004" in capsys.readouterr().out
    prepared(sequences, tmp_path, "--training", "01", "02", "--test")
    assert not list(tmp_path.glob("*_test.hdf5")), "files of before are removed: 02 trains now"
    words = "CTC_dataset_imgs_test.hdf5, CTC_dataset_instances_test.hdf5 of an earlier run are rem"
    assert f"No frames to test on were given: {words}" in capsys.readouterr().out


def test_hard_sequences_are_prepared(tmp_path):
    written = write_hard_sequences(tmp_path / "CTC")
    arrays = prepared(tmp_path / "CTC", tmp_path / "out")
    assert arrays["imgs_train_ids"] == ["01_0000", "01_0001", "01_0003", "01_0004"]
    np.testing.assert_array_equal(arrays["instances_train"], written["01"][[0, 1, 3, 4]])
    assert arrays["instances_train"].max() == 65_000
    assert arrays["imgs_train"].dtype == np.uint16
    assert arrays["imgs_test_ids"] == ["02_0000", "02_0001", "02_0002"]
    assert arrays["labelled_test"] == [True, False, True]


def test_pixels_of_unknown_kind_train_nothing(folder, tmp_path):
    path = folder / "01_GT/SEG/man_seg000.tif"
    objects = read(path).copy()
    objects[:30] = 65_535
    save(path, objects)
    arrays = prepared(folder, tmp_path / "out", "--ignore", "65535")
    assert (arrays["weightMaps_train"][0, :30] == 0).all()
    assert (arrays["weightMaps_train"][0, 30:] > 0).all()
    assert not arrays["groundTruth_train"][0, :30].any()
    assert not arrays["instances_train"][0, :30].any()


def test_pixels_of_unknown_kind_are_kept_and_are_no_object(folder, tmp_path, capsys):
    for path in (folder / "02_GT/SEG").iterdir():
        objects = np.zeros((SIDE, SIDE), np.uint16)
        objects[40:60, 40:60] = 3
        objects[60:80, 40:60] = 4
        objects[:30, :30] = 65_535 * ("000" in path.name)
        save(path, objects)
    arrays = prepared(folder, tmp_path / "out", "--ignore", "65535")
    assert not arrays["instances_test"][:, :30].any()
    assert "02_000 to 02_001: 2 gold truth, 4 objects." in capsys.readouterr().out
    with h5py.File(tmp_path / "out/CTC_dataset_instances_test.hdf5") as file:
        unknown = file["unknown"][:, 0]
    assert unknown[0, :30, :30].all() and unknown.sum() == 30 * 30
    with h5py.File(tmp_path / "out/CTC_dataset_instances_train.hdf5") as file:
        assert "unknown" not in file, "no such pixel there"


def test_the_number_of_unknown_pixels_makes_no_partial_truth_whole(folder, capsys):
    silver = np.zeros((SIDE, SIDE), np.uint16)
    for number in (1, 2, 3):
        silver[20 * number :][:15] = number
    gold = np.where(silver == 1, 1, np.where(silver == 2, 9, 0)).astype(np.uint16)
    save(folder / "01_ST/SEG/man_seg004.tif", silver)
    save(folder / "01_GT/SEG/man_seg004.tif", gold)
    prepare_datasets_CTC.prepare(folder, folder.parent / "out", "--ignore", "9")
    # 1 < .6 * 3, where 2 objects would be enough.
    words = "Frame 01_004: the gold truth has 1 objects, the silver truth 3;"
    assert words in capsys.readouterr().out


def test_a_number_of_unknown_pixels_that_none_has_is_refused(folder):
    path = folder / "01_GT/SEG/man_seg000.tif"
    objects = read(path).copy()
    objects[:30], objects[30:40, :5] = 65_535, 65_534
    save(path, objects)
    (problem,) = problems_of(folder, "--ignore", "65533")
    assert "Received: 65533, which none has; the highest are " in problem
    assert problem.endswith(", 65534, 65535. Correct it, or leave it out.")


def test_unknown_pixels_alone_are_no_annotation(folder):
    for path in (folder / "02_GT/SEG").iterdir():
        save(path, np.full((SIDE, SIDE), 9, np.uint16))
    (problem,) = problems_of(folder, "--ignore", "9")
    assert "No object in any of the 2 annotated frames to test on" in problem


def test_pairs_of_folders_are_taken(sequences, tmp_path):
    for number, name in enumerate(("b", "a")):
        frame = read(sequences / f"01/t{number:03d}.tif")
        truth = read(sequences / f"01_ST/SEG/man_seg{number:03d}.tif")
        save(tmp_path / f"images/{name}.tif", frame)
        save(tmp_path / f"labels/{name}.tif", truth)
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    arrays = prepared(tmp_path, tmp_path / "out", "--training-pair", *pair)
    assert arrays["imgs_train_ids"] == ["a", "b"]
    np.testing.assert_array_equal(
        arrays["instances_train"][1], read(sequences / "01_ST/SEG/man_seg000.tif")
    )
    assert "imgs_test" not in arrays
    arrays = prepared(tmp_path, tmp_path / "tested", "--test-pair", *pair)
    assert arrays["imgs_test_ids"] == ["a", "b"] and "imgs_train" not in arrays
    save(tmp_path / "labels/c.tif", truth)
    shutil.rmtree(tmp_path / "out")
    (problem,) = problems_of(tmp_path / "images", "--test-pair", *pair)
    assert "belong to no image" in problem and "c.tif" in problem


def test_images_of_a_pair_without_labels_are_named_and_jpeg_labels_refused(
    sequences, tmp_path, capsys
):
    truth = read(sequences / "01_ST/SEG/man_seg000.tif")
    for name in "abc":
        save(tmp_path / f"images/{name}.tif", read(sequences / "01/t000.tif"))
        save(tmp_path / f"labels/{name}.tif", truth)
    (tmp_path / "labels/b.tif").unlink()
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    arrays = prepared(tmp_path, tmp_path / "out", "--training-pair", *pair)
    assert arrays["imgs_train_ids"] == ["a", "c"]
    assert "NOTE: b.tif of" in capsys.readouterr().out
    Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "labels/b.jpg")
    shutil.rmtree(tmp_path / "out")
    (problem,) = problems_of(tmp_path / "images", "--training-pair", *pair)
    assert "b.jpg must be a label image saved without loss. Received: a JPEG" in problem


@pytest.mark.parametrize(
    ("word", "use", "other"),
    [("--training-pair", "train", "test"), ("--test-pair", "test", "train")],
)
def test_a_pair_alone_leaves_the_other_half(sequences, tmp_path, capsys, word, use, other):
    prepare_datasets_CTC.prepare(sequences, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "earlier run" not in capsys.readouterr().out
    save(tmp_path / "images/a.tif", read(sequences / "01/t001.tif"))
    save(tmp_path / "labels/a.tif", read(sequences / "01_ST/SEG/man_seg001.tif"))
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    prepare_datasets_CTC.prepare(tmp_path, tmp_path / "out", word, *pair)
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in after if name.endswith(f"_{use}.hdf5")}
    words = f"No frames to {other} on were given: CTC_dataset_imgs_{other}.hdf5, "
    output = capsys.readouterr().out
    assert words in output and "of an earlier run stay as they are." in output


def test_a_pair_and_sequences_each_prepare_a_half(sequences, tmp_path, capsys):
    save(tmp_path / "images/a.tif", read(sequences / "01/t001.tif"))
    save(tmp_path / "labels/a.tif", read(sequences / "01_ST/SEG/man_seg001.tif"))
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    arrays = prepared(sequences, tmp_path / "a", "--training", "02", "--test-pair", *pair)
    assert arrays["imgs_test_ids"] == ["a"]
    assert {name.split("_")[0] for name in arrays["imgs_train_ids"]} == {"02"}
    arrays = prepared(sequences, tmp_path / "b", "--training-pair", *pair, "--test", "01")
    assert arrays["imgs_train_ids"] == ["a"]
    assert {name.split("_")[0] for name in arrays["imgs_test_ids"]} == {"01"}
    # Of 01, 02 and 01 again, the image trained once and tested once; 02 holds none of 01's frames.
    assert capsys.readouterr().out.count("NOTE: 1 images of test are also in another subset") == 1
    (problem,) = problems_of(sequences, "--training", "01", "--training-pair", *pair)
    assert "--training and --training-pair must not be given together" in problem


def test_a_pair_has_no_silver_truth(sequences, tmp_path):
    save(tmp_path / "images/a.tif", read(sequences / "01/t001.tif"))
    save(tmp_path / "labels/a.tif", read(sequences / "01_ST/SEG/man_seg001.tif"))
    pair = (str(tmp_path / "images"), str(tmp_path / "labels"))
    arrays = prepared(
        sequences, tmp_path / "c", "--training", "01/", "--test-pair", *pair, "--labels", "ST"
    )
    assert {name.split("_")[0] for name in arrays["imgs_train_ids"]} == {"01"}
    assert arrays["instances_test"].any()
    (problem,) = problems_of(sequences, "--test-pair", *pair, "--labels", "ST")
    assert "--labels ST chooses between the truths of sequences." in problem


# ---------------------------------------------------------------- what is refused


def test_an_annotation_of_another_size_is_refused(folder):
    save(folder / "01_ST/SEG/man_seg001.tif", np.ones((SIDE, SIDE + 1), np.uint16))
    (problem,) = problems_of(folder)
    assert f"man_seg001.tif must have the size of its frame, {SIDE} x {SIDE} pixels." in problem
    assert f"Received: {SIDE + 1} x {SIDE} pixels." in problem


def test_an_annotation_in_colours_is_refused(folder):
    colours = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    save(folder / "01_ST/SEG/man_seg001.tif", colours)
    (problem,) = problems_of(folder)
    assert "man_seg001.tif must hold object numbers. Received: an image in colours." in problem


def test_a_missing_sequence_is_named_with_what_is_there(folder):
    first, second = problems_of(folder, "--training", "03", "--test", "04")
    assert f"{folder / '03'} must hold the frames of the sequence (t000.tif" in first
    assert "It does not exist. Folders in" in first and "01, 01_GT, 01_ST, 02" in first
    assert str(folder / "04") in second
    shutil.rmtree(folder)
    (problem,) = problems_of(folder)
    assert f"The folder {folder} does not exist." in problem and "CTC/README.md" in problem


def test_an_annotation_of_a_frame_that_does_not_exist_is_refused(folder):
    (folder / "01/t002.tif").unlink()
    (problem,) = problems_of(folder)
    assert f"{folder}/01_ST/SEG/man_seg002.tif annotates a frame that does not exist" in problem


def test_empty_frames_alone_are_refused(folder):
    for path in folder.glob("01_?T/SEG/*.tif"):
        save(path, np.zeros((SIDE, SIDE), np.uint16))
    (problem,) = problems_of(folder)
    assert "No object in any of the 5 annotated frames to train on (01_000 to 01_004)." in problem


def test_frames_that_are_no_tiff_files_are_refused(folder):
    for path in (folder / "01").iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        path.unlink()
    (problem,) = problems_of(folder)
    assert "01 must hold the frames of the sequence as TIFF files (t000.tif" in problem
    assert "Received: t000.png. Save them so, or give them with --training-pair" in problem


def test_a_stack_that_was_written_as_colours_is_refused(folder):
    stack = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), dtype=np.uint8)
    tifffile.imwrite(folder / "01/t001.tif", stack, photometric="rgb", planarconfig="separate")
    (problem,) = problems_of(folder)
    assert "t001.tif is a stack of 3 planes. Expected: one grey image" in problem
    assert "in a file of its own" in problem


def test_stacks_are_refused(folder):
    stack = np.zeros((7, SIDE, SIDE), np.uint8)
    tifffile.imwrite(folder / "01/t001.tif", stack, photometric="minisblack")
    tifffile.imwrite(folder / "01_ST/SEG/man_seg002.tif", stack, photometric="minisblack")
    image, annotation = problems_of(folder)
    assert "t001.tif is a stack of 7 planes. Expected: one grey image" in image
    assert "man_seg002.tif must hold one image. Received: 7 pages" in annotation


@pytest.mark.parametrize(
    ("dtype", "lowest", "highest", "words"),
    [
        (np.int16, -1, 5, "must hold numbers of at least 0. Received: -1."),
        (np.float32, 0, 1.5, "must hold whole numbers. Received: others (float32)."),
        (np.uint32, 0, 70_000, "must hold object numbers of at most 65,535. Received: 70,000."),
    ],
)
def test_numbers_that_count_no_objects_are_refused(folder, dtype, lowest, highest, words):
    objects = np.full((SIDE, SIDE), lowest, dtype)
    objects[10:20] = highest
    tifffile.imwrite(folder / "01_ST/SEG/man_seg001.tif", objects)
    (problem,) = problems_of(folder)
    assert f"man_seg001.tif {words}" in problem


def test_images_in_colours_and_of_other_sizes_are_refused(folder):
    save(folder / "01/t001.tif", np.zeros((SIDE, SIDE, 3), np.uint8) + np.arange(3, dtype=np.uint8))
    (problem,) = problems_of(folder)
    assert "t001.tif must be a grey image of 8 or 16 bits. Received: 3 channel(s)" in problem
    for name in ("01/t001.tif", "01_ST/SEG/man_seg001.tif"):
        save(folder / name, np.ones((SIDE, 50), np.uint16))
    (problem,) = problems_of(folder)
    assert "must have the size of the first frame" in problem
    assert f"Received: 50 x {SIDE} pixels" in problem


def test_frames_without_any_annotation_cannot_train(folder):
    (problem,) = problems_of(folder, "--training", "02", "--test", "01", "--labels", "ST")
    assert "No frame to train on has an annotation (ST)" in problem


def test_words_that_do_not_fit_are_listed_at_once(folder):
    words = ("--w0", "-1", "--border", "-2", "--ignore", "0", "--test", "./01/", "a/02")
    problems = problems_of(folder, *words)
    assert [problem.split()[0] for problem in problems] == [
        "--w0",
        "--border",
        "--ignore",
        "--test",
        "--training",
    ]
    assert problems[3].endswith("such as 01. Received: a/02.")
    for words in (("--sigma", "inf"), ("--sigma", "nan"), ("--w0", "inf")):
        (problem,) = problems_of(folder, *words)
        assert problem.startswith("--w0 must be at least 0 and --sigma above 0 pixels.")
    (problem,) = problems_of(folder, "--skip", "01:9")
    assert "--skip must name annotated frames as SEQUENCE:FRAME" in problem and "01:9" in problem


def test_the_script_ends_with_status_1_and_a_message(folder, monkeypatch, capsys):
    (folder / "01/t002.tif").unlink()
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(sys, "argv", ["prepare_datasets_CTC.py"])
    assert run_script(prepare_datasets_CTC.main) == 1
    captured = capsys.readouterr()
    assert captured.err.count("ERROR: ") == 1 and "Traceback" not in captured.err
    assert sorted(path.name for path in folder.parent.iterdir()) == ["CTC"]
