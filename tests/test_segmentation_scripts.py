"""The segmentation of one's own images by its real scripts, on small synthetic pictures."""

import json
import shutil
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from sklearn import metrics

import prepare_datasets_folder
from lib import encoders, losses, phantom, unet
from lib.configuration import read_configuration
from lib.errors import run_script
from lib.image_files import iterate_images
from lib.image_sets import ImageSet
from lib.pre_processing import resized
from lib.weights import read_weights as read_weights_of
from src import segmentation_task, segmentationNN_predict
from src.tasks import TASKS
from tests.processes import require_refusal, require_success, run, run_forked
from tests.reports import pixels_of
from tests.small_data import mentions, picture, read_weights, write_configuration

pytest_plugins = ["tests.finished"]

NAMES = list(phantom.CLASSES)
SIZES = ((64, 80), (57, 40))  # height, width
SETTINGS = {
    "path_local": "./mine_datasets/",
    "data_attributes__tile_size": 32,
    "N_subimgs": 24,
    "N_epochs": 2,
    "validation_split": 1,
    "base_filters": 4,
    "depth": 2,
    "optimizer": "adam",
    "learning_rate": 0.005,
    "best_last": "last",
    "testing_settings__tile_size": 32,
    "overlap": 8,
    "N_group_visual": 2,
}


def configure(folder, **changes):
    return write_configuration(folder, task="segmentation", **{**SETTINGS, **changes})


def write_pairs(folder, pairs, subset="training"):
    """Writes images and labels: PNG where Pillow can, else TIFF."""
    for index, kinds in enumerate(pairs):
        for kind, pixels in zip(("images", "labels"), kinds):
            path = folder / subset / kind
            path.mkdir(parents=True, exist_ok=True)
            if pixels.ndim == 2 or (pixels.shape[2] == 3 and pixels.dtype == np.uint8):
                Image.fromarray(pixels).save(path / f"{index}.png")
            else:
                planar = "contig" if pixels.shape[2] > 1 else None
                tifffile.imwrite(path / f"{index}.tif", pixels.squeeze(), planarconfig=planar)


def stained(seed, number):
    return [phantom.stained(seed + index, *SIZES[index % 2]) for index in range(number)]


@pytest.fixture
def prepare(monkeypatch):
    """A function that prepares ./mine of a folder."""

    def run(folder, *words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["prepare_datasets_folder.py", "mine", *words])
        assert run_script(prepare_datasets_folder.main) == 0

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One experiment of four classes, prepared, trained and tested; never changed."""
    folder = tmp_path_factory.mktemp("segmentation")
    write_pairs(folder / "mine", stained(1, 4))
    test = stained(9, 3)
    test[0][1][:20] = 255  # pixels of which nobody says what they are
    write_pairs(folder / "mine", test, "test")
    (folder / "mine" / "classes.txt").write_text("\n".join(NAMES))
    configure(folder)
    prepared = run("prepare_datasets_folder.py", "mine", cwd=folder)
    trained = run_forked("run_training.py", "configuration.txt", cwd=folder)
    tested = run_forked("run_testing.py", "configuration.txt", cwd=folder)
    return SimpleNamespace(
        folder=folder,
        experiment=folder / "small",
        prepared=prepared,
        trained=trained,
        tested=tested,
    )


def read_probabilities(folder):
    with h5py.File(folder / "predictions.hdf5") as file:
        return [file[f"probabilities/{n}"][...] for n in range(len(file["ids"]))]


def read_test_labels(folder):
    with ImageSet(folder / "mine_datasets" / "test.hdf5") as images:
        return [np.asarray(label) for label in images.labels]


# ---------------------------------------------------------------- the whole way, once


def test_all_three_scripts_end_well(finished):
    for done in (finished.prepared, finished.trained, finished.tested):
        require_success(done)
    assert mentions(finished.trained.output, "val_mean_iou", "Best val_mean_iou")
    files = {path.name for path in finished.experiment.iterdir()}
    assert {"predictions.hdf5", "confusion_matrix.png", "performances.txt"} <= files
    assert {f"small_Original_GroundTruth_Prediction_Errors{n}.png" for n in (0, 1)} <= files
    assert {"sample_input_imgs.png", "sample_input_masks.png", "small_best.weights.h5"} <= files


def test_segmentations_are_class_numbers_in_class_colours_at_the_images_own_size(finished):
    shapes = [label.shape for label in read_test_labels(finished.folder)]
    for number, (shape, probabilities) in enumerate(
        zip(shapes, read_probabilities(finished.experiment))
    ):
        with Image.open(finished.experiment / "segmentations" / f"{number}.png") as image:
            classes = np.asarray(image)
            assert image.mode == "P"
            palette = np.array(image.getpalette()).reshape(-1, 3)
        with ImageSet(finished.folder / "mine_datasets" / "test.hdf5") as images:
            assert palette[:4].tolist() == [list(colour) for colour in images.classes.colours]
        assert classes.shape == shape and probabilities.shape == (4, *shape)
        np.testing.assert_allclose(probabilities.sum(axis=0, dtype=np.float32), 1, atol=3e-3)
        # They are stored with 3 digits, which decide nothing but ties.
        chosen = np.take_along_axis(probabilities, classes[np.newaxis], 0)[0]
        assert (probabilities.max(axis=0) - chosen <= 1e-3).all()


def test_scores_are_those_of_scikit_learn_on_the_written_segmentations(finished):
    performances = json.loads((finished.experiment / "performances.json").read_text())
    labels = read_test_labels(finished.folder)
    written = [
        picture_numbers(finished.experiment / "segmentations" / f"{n}.png") for n in range(3)
    ]
    truth, found = (np.concatenate([one.ravel() for one in kind]) for kind in (labels, written))
    truth, found = truth[truth != 255], found[truth != 255]
    assert (read_test_labels(finished.folder)[0] == 255).any()
    matrix = metrics.confusion_matrix(truth, found, labels=range(4))
    assert performances["confusion_matrix"] == matrix.tolist()
    assert performances["pixel_accuracy"] == metrics.accuracy_score(truth, found)
    kinds = {
        "iou": metrics.jaccard_score,
        "dice": metrics.f1_score,
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
    }
    for kind, score in kinds.items():
        expected = score(truth, found, labels=range(4), average=None, zero_division=0)
        for name, value in zip(NAMES, expected):
            received = performances["classes"][name][kind]
            assert value == (0 if received is None else received), (kind, name)
    present = [row["iou"] for row in performances["classes"].values() if row["iou"] is not None]
    assert performances["mean_iou"] == pytest.approx(np.mean(present))
    per_image = [image["mean_iou"] for image in performances["per_image"]]
    assert per_image == sorted(per_image) and len(per_image) == 3
    text = (finished.experiment / "performances.txt").read_text()
    assert f"Mean IoU: {performances['mean_iou']:.4f}" in text


def picture_numbers(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_weights_know_the_kind_of_their_data_and_refuse_another(finished, step, workspace, prepare):
    (workspace / "mine" / "classes.txt").write_text("\n".join([*NAMES[:3], "thread"]))
    prepare(workspace)
    done = step("testing")
    require_refusal(done, "class names", "fibre -> background, cell, rod, thread")


# ---------------------------------------------------------------- other ways


def test_validation_images_are_tested_and_a_network_may_have_a_sigmoid(step, workspace, prepare):
    for subset in ("training", "test"):
        for path in (workspace / "mine" / subset / "labels").iterdir():
            Image.fromarray((picture_numbers(path) == 1).astype(np.uint8)).save(path)
    (workspace / "mine" / "classes.txt").unlink()
    prepare(workspace, "--validation", "last:1")
    changes = {
        "name": "two",
        "output_activation": "sigmoid",
        "network": "unet_plus_plus",
        "deep_supervision": True,
        "batch_normalization": True,
        "loss": "dice_cross_entropy",
        "class_weights": "balanced",
        "N_epochs": 1,
        "validation_split": 0,  # a file of images validates
        "best_last": "best",
        "images": "validation",
        "average_flips": 8,
    }
    typo = step("training", **{**changes, "validation_images": "validaton.hdf5"})
    require_refusal(typo, "validation_images must be a file that is there", "validaton.hdf5")
    trained = step("training", **{**changes, "validation_images": '"validation.hdf5"'})
    require_success(trained)
    assert "tiles an epoch from the 3 images 0 to 2; held out for validation" in trained.output
    assert "never trained on: image 3." in trained.output
    require_success(step("testing", **changes))
    scores = json.loads((workspace / "two" / "validation" / "performances.json").read_text())
    assert [image["id"] for image in scores["per_image"]] == ["3"]
    assert len(scores["classes"]) == 2


def test_numbered_objects_are_split_at_their_borders_and_scored(tmp_path, call, prepare):
    frames, objects = phantom.touching_cells(3, 96, 96, num_frames=4)
    pairs = [(f, o.astype(np.uint16)) for f, o in zip(frames, objects)]
    write_pairs(tmp_path / "mine", pairs[:3])
    write_pairs(tmp_path / "mine", pairs[3:], "test")
    prepare(tmp_path, "--instances")
    configure(tmp_path, N_subimgs=60, N_epochs=4, base_filters=8)
    require_success(call("training", tmp_path, "configuration.txt"))
    require_success(call("testing", tmp_path, "configuration.txt"))
    scores = json.loads((tmp_path / "small" / "performances.json").read_text())
    written = picture(tmp_path / "small" / "objects" / "0.png")
    assert written.dtype == np.uint16 and written.shape == (96, 96)
    truth = pairs[3][1]
    assert scores["objects"]["num_true"] == len(set(np.unique(truth)) - {0})
    assert scores["objects"]["num_predicted"] == len(set(np.unique(written)) - {0})
    for threshold, value in scores["objects"]["ap"].items():
        assert value == pytest.approx(plain_average_precision(truth, written, float(threshold)))
    classes = picture_numbers(tmp_path / "small" / "segmentations" / "0.png")
    iou = metrics.jaccard_score((truth > 0).ravel(), (classes > 0).ravel())
    assert scores["foreground_iou"] == pytest.approx(iou)
    # Of no pixel is the network so sure: no core, no object.
    configure(tmp_path, base_filters=8, object_threshold=1)
    require_success(call("testing", tmp_path, "configuration.txt"))
    performances = json.loads((tmp_path / "small" / "performances.json").read_text())
    assert performances["objects"]["num_predicted"] == 0


def plain_average_precision(truth, found, threshold):
    """Matches objects one by one: above an IoU of 0.5 no object has two partners."""
    numbers, others = (set(np.unique(objects).tolist()) - {0} for objects in (truth, found))
    pairs = 0
    for number in numbers:
        for other in others:
            one, two = truth == number, found == other
            iou = (one & two).sum() / (one | two).sum()
            pairs += iou >= threshold
    total = len(numbers) + len(others) - pairs
    return pairs / total if total else 1.0


@pytest.mark.parametrize("channels, scale", [(5, "auto"), (1, "type"), (3, "image")])
def test_16_bits_of_any_channels_and_mixed_sizes_are_tested_and_predicted_alike(
    tmp_path, call, prepare, rng, channels, scale
):
    pairs = []
    for shape in ((97, 64), (33, 150), (20, 20)):
        label = np.zeros(shape, np.uint8)
        label[:, : shape[1] // 2] = 1
        image = rng.integers(0, 5000, (*shape, channels)) + 30000 * label[..., None].astype(int)
        pairs.append((image.astype(np.uint16), label))
    write_pairs(tmp_path / "mine", pairs)
    prepare(tmp_path, "--test", "last:1", "--scale", scale)
    configure(tmp_path, N_epochs=1)
    for step in ("training", "testing"):
        require_success(call(step, tmp_path, "configuration.txt"))
    tested = picture_numbers(tmp_path / "small" / "segmentations" / "2.png")
    assert tested.shape == (20, 20)
    image = tmp_path / "mine" / "training" / "images" / "2.tif"
    require_success(call("prediction", tmp_path, image, "--experiment", "small"))
    predicted = picture_numbers(tmp_path / "segmented" / "2_segmentation.png") > 0
    np.testing.assert_array_equal(predicted, tested > 0)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_report_takes_ignored_pixels_for_no_errors(num_classes):
    labels = np.zeros((8, 8), np.uint8)
    labels[1], labels[4:] = 1, 255
    probabilities = np.eye(num_classes, dtype=np.float32)[labels % 255].transpose(2, 0, 1)
    found = {"classes": probabilities.argmax(axis=0).astype(np.uint8)}
    image = np.zeros((3, 8, 8), np.float32)
    shown = segmentationNN_predict.show("a", image, probabilities, found, {"classes": labels})
    names = NAMES[:num_classes]
    data = {"class_names": names, "class_colours": np.zeros((num_classes, 3), int)}
    report = segmentationNN_predict.begin_report(SimpleNamespace(name="small"), data)
    report.add(shown)
    errors = pixels_of(report.images[0]["large"]["errors"])
    false, missed = 1, 2
    assert not np.isin(errors, (false, missed)).any()
    assert report.images[0]["scores"][report.sort_by] == 1


def test_a_prediction_needs_the_channels_of_the_training(tmp_path):
    tifffile.imwrite(tmp_path / "four.tif", np.zeros((4, 9, 8), np.uint8))
    with pytest.raises(ValueError, match="must have 5 channels. Received: an image of 4 channels"):
        next(iterate_images(tmp_path / "four.tif", 5))


@pytest.mark.parametrize(("overlap", "number"), [(0, 8 * 8), (16, 11 * 11), (31, 15 * 15)])
def test_tiles_of_any_size_overlap_as_asked(tmp_path, overlap, number):
    changes = {"depth": 4, "testing_settings__tile_size": 64, "overlap": overlap}
    configuration = read_configuration(configure(tmp_path, **changes), TASKS)
    assert segmentationNN_predict.count_passes(configuration, [(512, 512)]) == number


def test_images_very_unlike_those_of_the_training_are_flagged(finished, step, workspace, prepare):
    assert "Very unlike" not in (finished.experiment / "report.html").read_text()
    dark = [(image // 8, label) for image, label in stained(9, 3)]
    write_pairs(workspace / "mine", dark, "test")
    prepare(workspace)
    require_success(step("testing"))
    assert "Very unlike the training in brightness" in (workspace / "small/report.html").read_text()


def test_photographs_are_scaled_to_the_size_of_the_training_and_back(step, workspace, prepare, rng):
    prepare(workspace, "--size", "48x40")
    require_success(step("training", name="sized", N_epochs=1))
    weights = read_weights_of(workspace / "sized" / "sized_last.weights.h5")
    assert weights.data["size"] == [40, 48]
    configuration = read_configuration(workspace / "configuration.txt", TASKS)
    predictor = segmentationNN_predict.make_predictor(configuration, weights)
    image = rng.integers(0, 256, (3, 80, 144), np.uint8)
    found = predictor.predict(image).probabilities
    assert found.shape == (4, 80, 144)
    small = predictor.predict(resized(image[np.newaxis], (40, 48))[0]).probabilities
    np.testing.assert_array_equal(found, resized(small[np.newaxis], (80, 144))[0])
    assert predictor.protocol.startswith("Images scaled to 48 x 40 pixels")
    assert "averaged" not in predictor.protocol
    # Data of another size are of another kind.
    prepare(workspace, "--size", "24x40")
    require_refusal(step("testing", name="sized"), "size: 40, 48 -> 40, 24")
    prepare(workspace)
    require_refusal(step("testing", name="sized"), "size: 40, 48 -> None")
    require_success(step("training", name="unsized", N_epochs=1))
    prepare(workspace, "--size", "24x40")
    require_refusal(step("testing", name="unsized"), "size: None -> 40, 24")


def test_images_without_labels_are_segmented_without_scores(step, workspace, prepare):
    shutil.rmtree(workspace / "mine" / "test" / "labels")
    prepare(workspace)
    output = require_success(step("testing"))
    assert "The images have no labels: no scores." in output
    files = {path.name for path in (workspace / "small").iterdir()}
    assert "small_Original_Prediction0.png" in files and "performances.txt" not in files
    assert "There is no ground truth" in (workspace / "small" / "report.html").read_text()


def test_a_killed_training_with_plateau_and_averages_resumes_as_undisturbed(
    workspace, step, monkeypatch
):
    changes = {"learning_rate_decay": "plateau", "plateau_patience": 1, "weight_averaging": 0.9}
    require_success(step("training", name="whole", **changes))
    monkeypatch.setattr("lib.callbacks.StopRequest.reason", stop_after(4))
    assert step("training", name="parts", **changes).returncode == 124
    monkeypatch.undo()
    require_success(step("training", name="parts", **changes))
    whole, parts = (
        read_weights(workspace / name / f"{name}_last.weights.h5") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(array, parts[name], err_msg=name)


def stop_after(number):
    asked = []

    def reason(self):
        asked.append(1)
        return "Time is over" if len(asked) > number else None

    return reason


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("training", {"data_attributes__tile_size": 30}, "tile_size must be a multiple of 4"),
        ("testing", {"testing_settings__tile_size": 34}, "32 or 36 would do"),
        ("testing", {"overlap": 16}, "overlap must be at most 15 with a tile_size of 32"),
        (
            "testing",
            {"testing_settings__tile_size": 16, "depth": 4, "overlap": 4},
            "overlap must be at most 0 with a tile_size of 16",
        ),
        ("training", {"deep_supervision": True}, "deep_supervision must be False"),
        ("training", {"encoder_weights": "imagenet"}, "encoder_weights must be none"),
        ("training", {"name": "new", "validation_split": 4}, "must be below 4, the number of"),
        ("training", {"name": "new", "validation_split": 0, "best_last": "best"}, "must be last"),
        ("training", {"name": "new", "output_activation": "sigmoid"}, "sigmoid is for 2"),
        ("testing", {"base_filters": 8}, "base_filters must be 4, with which"),
        ("testing", {"path_local": "./nothing/"}, "does not exist. Prepare"),
        ("testing", {"images": "validation", "validation_split": 2}, "validation_split must be 1"),
    ],
)
def test_mistakes_are_named(step, name, changes, words):
    require_refusal(step(name, **changes), words)


def test_the_hue_of_images_without_colours_is_refused(tmp_path, call, prepare):
    write_pairs(tmp_path / "mine", [(image[..., :1], label) for image, label in stained(1, 3)])
    prepare(tmp_path)
    configure(tmp_path, hue=10)
    done = call("training", tmp_path, "configuration.txt")
    require_refusal(done, "hue must be 0, because the images have 1 channels")


def test_weights_that_do_not_tell_their_classes_are_refused(step, workspace):
    path = workspace / "small" / "small_last.weights.h5"
    with h5py.File(path, "r+") as file:
        del file["training_state"]
    require_refusal(step("testing"), f"{path} does not tell the classes and channels")


def test_training_images_without_labels_are_refused(step, workspace, prepare):
    shutil.rmtree(workspace / "mine" / "test" / "labels")
    prepare(workspace)
    done = step("training", name="new", train_images="test.hdf5")
    require_refusal(done, "test.hdf5 holds no labels")


def test_the_task_names_what_lib_has():
    assert segmentation_task.NETWORKS == tuple(unet.PADDED_NETWORKS)
    assert segmentation_task.ENCODERS == tuple(encoders.SOURCES)
    assert segmentation_task.ENCODER_MULTIPLE == encoders.Encoder.multiple
    (key,) = [key for key in segmentation_task.KEYS if key.name == "loss"]
    assert all(key.parse(name) == name for name in losses.LOSSES)
