"""A third task, of three classes, trained and tested by the code that all tasks share."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.files import write_hdf5
from lib.pictures import visualize
from src import launch, predict_folder
from src.tasks import TASKS, Task
from tests import toy_task
from tests.small_data import picture, read_log
from tests.small_experiment import read_scores

SHAPES = {"small": (32, 40), "large": (50, 62)}
NUMBERS = {"train": 3, "validation": 1, "test": 2}
CONFIGURATION = """\
[data paths]
path_local = ./data/
[experiment name]
name = toys
task = toy
[data attributes]
patch_size = 24
[training settings]
N_subimgs = 120
N_epochs = {num_epochs}
optimizer = adam
learning_rate = 0.002
[testing settings]
best_last = best
"""


def draw(rng, height, width):
    """Draws a red disc and a blue bar on grey noise: (4, height, width), colours and classes."""
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height - 8), rng.integers(0, width - 20)
    labels[top : top + 8, left : left + 20] = 2
    row, column = rng.integers(8, height - 8), rng.integers(8, width - 8)
    labels[(rows - row) ** 2 + (columns - column) ** 2 < 64] = 1
    image = rng.normal(100, 20, (3, height, width))
    image[0] += 60.0 * (labels == 1)
    image[2] += 60.0 * (labels == 2)
    return np.concatenate([np.clip(image, 0, 255).astype(np.uint8), labels[np.newaxis]])


def step(name, num_epochs):
    """Runs a training or a test as its script does."""
    Path("configuration.txt").write_text(CONFIGURATION.format(num_epochs=num_epochs))
    arguments = {"data": None, "overwrite": False, "output": None, "angle": None}
    getattr(launch, name)(SimpleNamespace(configuration="configuration.txt", **arguments))


@pytest.fixture
def toys(in_tmp_path, monkeypatch):
    """Makes the task known and draws its images; gives the folder of its experiment."""
    module = toy_task.__name__
    task = Task("toy", "configuration.txt", toy_task.KEYS, lambda _: [], module, module, module)
    monkeypatch.setitem(TASKS, "toy", task)
    rng = np.random.default_rng(0)
    for subset, number in NUMBERS.items():
        for size, shape in SHAPES.items():
            stack = np.stack([draw(rng, *shape) for _ in range(number)])
            write_hdf5(in_tmp_path / "data" / f"{size}_{subset}.hdf5", stack)
    return in_tmp_path / "toys"


def test_a_task_trains_resumes_and_tests_by_shared_code(toys, capsys):
    step("train", num_epochs=2)
    begun = read_log(toys / "toys_log.csv")
    step("train", num_epochs=6)
    assert "Resuming after epoch 2 of 6" in capsys.readouterr().out
    rows = read_log(toys / "toys_log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[:2] == begun
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]

    step("test", num_epochs=6)
    scores = read_scores(toys)
    assert f"Accuracy: {scores['accuracy']:.4f}" in (toys / "performances.txt").read_text()
    assert scores["images"] == ["small_0", "small_1", "large_0", "large_1"]
    truth = toy_task.load(SimpleNamespace(data_paths=DATA), "test")[1]
    counts = np.bincount(np.concatenate([label.ravel() for label in truth]))
    largest = counts.max() / counts.sum()
    # Of the pixels that are not of the largest class, more than half are found.
    assert scores["accuracy"] > (1 + largest) / 2
    right = 0
    for name, label in zip(scores["images"], truth, strict=True):
        shown = picture(toys / "segmentations" / f"{name}.png")  # (H, W, 3)
        right += np.sum(np.all(shown == np.array([*toy_task.COLOURS.values()])[label], axis=-1))
    assert right / sum(label.size for label in truth) == pytest.approx(scores["accuracy"])

    folder = predict(toys)
    report = (toys / "report.html").read_text()
    assert "mean IoU" in report
    assert 'id="threshold"' not in report  # three classes have none
    assert "share of bar [%]" in (folder / "measurements.csv").read_text().splitlines()[0]
    for name, label in zip(scores["images"], truth, strict=True):
        with Image.open(folder / f"{name}_segmentation.png") as image:
            found = np.asarray(image)  # a palette: the numbers of the classes
        # Its testing averages over mirrorings, its prediction does not.
        assert np.mean(found == label) > scores["accuracy"] - 0.05
        probabilities = tifffile.imread(folder / f"{name}_probabilities.tif")
        assert probabilities.shape == (3, *label.shape)
        assert (probabilities.argmax(axis=0) == found).mean() > 0.999


def predict(toys):
    """Writes the test images as files, predicts them, and gives the folder of the results."""
    images, _, ids = toy_task.load(SimpleNamespace(data_paths=DATA), "test")
    for name, image in zip(ids, images):
        visualize(image.transpose(1, 2, 0), toys.parent / "toys_to_do" / f"{name}.png")
    options = {"threshold": None, "angle": None, "overwrite": False, "export": None}
    predict_folder.predict(
        SimpleNamespace(images=["toys_to_do"], experiment="toys", output=None, **options)
    )
    return toys.parent / "toys_to_do_segmented"


DATA = SimpleNamespace(path_local="./data/")


def test_a_task_is_under_120_lines():
    assert len(Path(toy_task.__file__).read_text().splitlines()) < 120
