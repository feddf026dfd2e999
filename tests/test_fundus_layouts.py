"""Tests of data sets of photographs as they are given out, in small, and of what stops them."""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_datasets_DRIVE
from lib.errors import UserError
from lib.files import load_hdf5, load_hdf5_extra
from prepare_datasets_DRIVE import prepare
from tests.small_data import draw_fundus, write_drive


def save(path, pixels, mode=None, packed=False):
    """Saves an image under any name, as a .gz file where that is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    content = io.BytesIO()
    kind = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "ppm": "PPM"}[path.name.split(".")[-1][:3]]
    (image.convert(mode) if mode else image).save(content, kind)
    if packed:
        path = path.with_name(f"{path.name}.gz")
        content = io.BytesIO(gzip.compress(content.getvalue()))
    path.write_bytes(content.getvalue())


def half_of(vessels):
    """What a second observer sees: the vessels of the left half."""
    half = vessels.copy()
    half[:, half.shape[1] // 2 :] = 0
    return half


def write_stare(folder, rng, names=("im0001", "im0002", "im0077")):
    for number, name in enumerate(names):
        photograph, vessels, _ = draw_fundus(rng)
        packed = number != 1  # one of them was unpacked
        save(folder / "stare-images" / f"{name}.ppm", photograph, packed=packed)
        save(folder / "labels-ah" / f"{name}.ah.ppm", vessels, packed=packed)
        save(folder / "labels-vk" / f"{name}.vk.ppm", half_of(vessels), "RGB", packed)


def write_chase(folder, rng, numbers=(10, 11)):
    for name in (f"Image_{number:02d}{side}" for number in numbers for side in "LR"):
        photograph, vessels, _ = draw_fundus(rng)
        save(folder / f"{name}.jpg", photograph)
        save(folder / f"{name}_1stHO.png", vessels, "1")
        save(folder / f"{name}_2ndHO.png", half_of(vessels), "1")


def write_hrf(folder, rng, numbers=(5, 6)):
    for number in numbers:
        for kind, ending in (("dr", "JPG"), ("g", "jpg"), ("h", "jpg")):
            photograph, vessels, fov = draw_fundus(rng)
            name = f"{number:02d}_{kind}"
            path = folder / "images" / f"{name}.jpg"
            save(path, photograph)
            path.rename(path.with_suffix(f".{ending}"))
            save(folder / "manual1" / f"{name}.tif", vessels)
            save(folder / "mask" / f"{name}_mask.tif", fov, "RGB")


WRITERS = {"STARE": write_stare, "CHASE_DB1": write_chase, "HRF": write_hrf}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "prepared"


def ids_of(output, subset):
    return load_hdf5_extra(output / f"DRIVE_dataset_imgs_{subset}.hdf5", "ids")


def problems_of(folder, output, **options):
    """Prepares what must be refused: gives the problems, after a look that nothing was written."""
    with pytest.raises(UserError) as error:
        prepare(folder, output, **options)
    assert not output.exists()
    return error.value.problems


# ---------------------------------------------------------------- what is read


def test_stare_with_one_image_left_out(tmp_path, output, rng):
    write_stare(tmp_path / "STARE", rng)
    prepare(tmp_path / "STARE", output, layout="STARE", test=["IM0002"])
    assert ids_of(output, "train") == ["im0001", "im0077"]
    assert ids_of(output, "test") == ["im0002"]
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    truth, second = load_hdf5(path), load_hdf5_extra(path, "second_observer")
    assert truth.shape == (1, 1, 64, 80) and np.unique(truth).tolist() == [0, 255]
    np.testing.assert_array_equal(second[..., :40], truth[..., :40])
    assert not second[..., 40:].any()
    packed, plain = (
        load_hdf5(output / f"DRIVE_dataset_imgs_{subset}.hdf5")[0] for subset in ("train", "test")
    )
    folder = tmp_path / "STARE" / "stare-images"
    with gzip.open(folder / "im0001.ppm.gz") as file, Image.open(file) as image:
        np.testing.assert_array_equal(packed, np.asarray(image).transpose(2, 0, 1))
    with Image.open(folder / "im0002.ppm") as image:
        np.testing.assert_array_equal(plain, np.asarray(image).transpose(2, 0, 1))
    # The field of view is that of the drawing, as far as it can be estimated.
    fov = load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5")[0, 0] > 0
    expected = draw_fundus(rng)[2] > 0
    assert (fov & expected).sum() / (fov | expected).sum() > 0.95


def test_stare_unpacked_beside_the_packed_files(tmp_path, output, rng):
    write_stare(tmp_path, rng)
    packed = tmp_path / "stare-images" / "im0001.ppm.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.write_bytes(b"cut off")  # the unpacked one is read
    prepare(tmp_path, output, layout="STARE", test=["all"])
    assert ids_of(output, "test") == ["im0001", "im0002", "im0077"]
    assert not (output / "DRIVE_dataset_imgs_train.hdf5").exists()


def test_images_that_test_now_and_trained_before_train_no_more(tmp_path, output, rng, capsys):
    write_stare(tmp_path, rng)
    prepare(tmp_path, output, layout="STARE", test=["im0001"])
    assert ids_of(output, "train") == ["im0002", "im0077"]
    prepare(tmp_path, output, layout="STARE", test=["all"], subsets=["test"])
    assert ids_of(output, "train") == ["im0002", "im0077"], "--only leaves the other half alone"
    capsys.readouterr()
    prepare(tmp_path, output, layout="STARE", test=["all"])
    assert [path.name for path in output.glob("*_train.hdf5")] == []
    assert (
        "--test leaves no image for training: DRIVE_dataset_imgs_train" in capsys.readouterr().out
    )


def test_a_half_without_images_is_not_said_to_be_written(tmp_path, output, rng):
    write_stare(tmp_path, rng)
    options = {"layout": "STARE", "test": ["all"], "subsets": ["training"]}
    (problem,) = problems_of(tmp_path, output, **options)
    assert problem == "--test all leaves no image for --only training."
    assert not output.exists()


def test_stare_without_a_second_observer(tmp_path, output, rng):
    write_stare(tmp_path, rng)
    for path in (tmp_path / "labels-vk").iterdir():
        path.unlink()
    prepare(tmp_path, output, layout="STARE", subsets=["test"])
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    assert load_hdf5_extra(path, "second_observer") is None
    assert ids_of(output, "test") == ["im0001", "im0002", "im0077"]


def test_chase_tests_on_the_children_from_11_on(tmp_path, output, rng, capsys):
    write_chase(tmp_path, rng)
    (tmp_path / "notes.txt").write_text("mine")
    prepare(tmp_path, output, layout="CHASE_DB1")
    assert ids_of(output, "train") == ["Image_10L", "Image_10R"]
    assert ids_of(output, "test") == ["Image_11L", "Image_11R"]
    said = capsys.readouterr().out
    assert "the first 20 images train, the last 8 test" in said
    assert f"{tmp_path}: passed over notes.txt." in said
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    assert load_hdf5_extra(path, "second_observer").any()


def test_hrf_trains_on_the_first_five_of_each_kind(tmp_path, output, rng):
    write_hrf(tmp_path, rng)
    prepare(tmp_path, output, layout="HRF")
    assert ids_of(output, "train") == ["05_dr", "05_g", "05_h"]
    assert ids_of(output, "test") == ["06_dr", "06_g", "06_h"]
    fov = load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5")[0, 0]
    np.testing.assert_array_equal(fov, draw_fundus(rng)[2])


def test_the_command_line_takes_folder_and_output_from_the_layout(
    in_tmp_path, rng, monkeypatch, capsys
):
    write_stare(in_tmp_path / "STARE", rng)
    words = ["prepare_datasets_DRIVE.py", "--layout", "STARE", "--test", "im0001", "im0077"]
    monkeypatch.setattr(sys, "argv", words)
    prepare_datasets_DRIVE.main()
    assert ids_of(in_tmp_path / "STARE_datasets_training_testing", "test") == ["im0001", "im0077"]
    assert "train: 1 images of 80 x 64 pixels, ids im0002 to im0002" in capsys.readouterr().out


def test_chase_itself(unet_test_data, output):
    folder = unet_test_data / "CHASE_DB1"
    if not folder.is_dir():
        pytest.skip("no CHASE_DB1 in UNET_TEST_DATA")
    prepare(folder, output, layout="CHASE_DB1", subsets=["test"])
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    truth, second = load_hdf5(path) > 0, load_hdf5_extra(path, "second_observer") > 0
    assert truth.shape == (8, 1, 960, 999)
    fov = load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5") > 0
    both = 2 * np.count_nonzero(truth & second & fov)
    f1 = both / (np.count_nonzero(truth & fov) + np.count_nonzero(second & fov))
    assert f1 == pytest.approx(0.798, abs=0.001)


# ---------------------------------------------------------------- what stops it


def test_stare_needs_to_be_told_what_tests(tmp_path, output, rng):
    write_stare(tmp_path, rng)
    (problem,) = problems_of(tmp_path, output, layout="STARE")
    assert "STARE is given out without a split" in problem
    assert "--test im0001 leaves this image out; --test all trains on none." in problem


def test_ids_that_are_not_there(tmp_path, output, rng):
    write_stare(tmp_path, rng)
    (problem,) = problems_of(tmp_path, output, layout="STARE", test=["im0001", "im3", "all"])
    assert problem == (
        "--test must name images of STARE, or all. Received: im3, all. There are: im0001, im0002, "
        "im0077."
    )


@pytest.mark.parametrize("there", WRITERS)
@pytest.mark.parametrize("asked", [*WRITERS, "DRIVE"])
def test_another_layout_is_recognised(tmp_path, output, rng, there, asked):
    folder = tmp_path / "data"
    WRITERS[there](folder, rng)
    if asked == there:
        prepare(folder, output, layout=asked, test=["all"])
        return
    (problem,) = problems_of(folder, output, layout=asked)
    words = f"{folder} looks like {there}: give it as the argument, with --layout {there}."
    assert problem.endswith(words)


def test_folders_of_others_that_may_not_be_read_are_no_fault(tmp_path, output, monkeypatch):
    (tmp_path / "data" / "others").mkdir(parents=True)
    is_dir, iterdir = Path.is_dir, Path.iterdir

    def refuse(ask):
        def asked(path):
            if path in (tmp_path, tmp_path / "data" / "others" / "images"):
                raise PermissionError(path)
            return ask(path)

        return asked

    monkeypatch.setattr(Path, "is_dir", refuse(is_dir))
    monkeypatch.setattr(Path, "iterdir", refuse(iterdir))
    (problem,) = problems_of(tmp_path / "data", output, layout="HRF")
    assert "holds no photographs of HRF" in problem
    write_drive(tmp_path / "data")
    prepare(tmp_path / "data", output)


def test_drive_is_recognised_and_so_is_a_folder_further_in_or_out(tmp_path, output, rng):
    write_drive(tmp_path / "drive")
    (problem,) = problems_of(tmp_path / "drive", output, layout="HRF")
    assert f"holds no photographs of HRF, such as {tmp_path}/drive/images/01_dr.JPG." in problem
    assert problem.endswith("with --layout DRIVE.")
    write_stare(tmp_path / "sets" / "stare", rng)
    for place in (tmp_path / "sets", tmp_path / "sets" / "stare" / "stare-images"):
        (problem,) = problems_of(place, output, layout="STARE")
        assert f"{tmp_path / 'sets' / 'stare'} looks like STARE" in problem


def test_a_folder_that_is_not_there(tmp_path, output):
    (problem,) = problems_of(tmp_path / "no", output, layout="STARE")
    assert problem == (
        f"The folder {tmp_path / 'no'} does not exist. Expected there, of STARE: "
        "stare-images/im0001.ppm, labels-ah/im0001.ah.ppm, labels-vk/im0001.vk.ppm."
    )


def test_missing_and_surplus_partners(tmp_path, output, rng):
    write_hrf(tmp_path, rng)
    (tmp_path / "manual1" / "05_g.tif").unlink()
    for name in ("05_h", "06_h"):
        (tmp_path / "images" / f"{name}.jpg").unlink()
    for path in (tmp_path / "mask").iterdir():
        path.unlink()
    problems = problems_of(tmp_path, output, layout="HRF")
    assert problems == [
        f"{tmp_path} (like manual1/01_dr.tif) has 5 files for 4 images. Missing for id: 05_g.",
        f"{tmp_path} (like manual1/01_dr.tif) has files without an image in {tmp_path / 'images'}, "
        "id: 05_h, 06_h.",
        f"{tmp_path} (like mask/01_dr_mask.tif) has 0 files for 4 images. Missing for id: 05_dr, "
        "05_g, 06_dr, 06_g. Or add --no-masks.",
    ]


def test_a_half_without_images(tmp_path, output, rng):
    write_chase(tmp_path, rng, numbers=(13,))
    (problem,) = problems_of(tmp_path, output, layout="CHASE_DB1")
    assert "holds no image of CHASE_DB1 for training" in problem and "--only" in problem
    prepare(tmp_path, output, layout="CHASE_DB1", subsets=["test"])
    assert ids_of(output, "test") == ["Image_13L", "Image_13R"]


@pytest.mark.parametrize("spoil", [lambda x: x[: len(x) // 2], lambda x: b"no gzip", lambda x: b""])
def test_packed_files_that_are_broken(tmp_path, output, rng, spoil):
    write_stare(tmp_path, rng)
    for path in (
        tmp_path / "stare-images" / "im0001.ppm.gz",
        tmp_path / "labels-ah" / "im0077.ah.ppm.gz",
    ):
        path.write_bytes(spoil(path.read_bytes()))
    problems = problems_of(tmp_path, output, layout="STARE", test=["im0002"])
    assert len(problems) == 2
    for problem, name in zip(problems, ("im0001.ppm.gz", "im0077.ah.ppm.gz"), strict=True):
        assert name in problem
        assert "cannot be read whole" in problem or "is empty (0 bytes)" in problem
        assert "ownload it again" in problem


def test_the_layout_of_drive_takes_no_test(tmp_path, output):
    write_drive(tmp_path)
    (problem,) = problems_of(tmp_path, output, test=["01"])
    assert "--test is for data sets that lie in one piece" in problem
