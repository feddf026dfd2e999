"""Tests pretrained/vessels_held_out on photographs of other cameras, simulated.

    python -m benchmarks.cameras

Another experiment, some cameras only, as JSON: python -m benchmarks.cameras --configuration
my_configuration.txt --cameras "noise of 8 grey levels" --output my_cameras.json

Start it in the project's folder with DRIVE prepared. The training images that only validated are
enlarged, cut, blurred and so on, and tested by the settings of that experiment. Expected result:
benchmarks/cameras.md, in half a minute on two CPU cores. Simulated photographs stand in for real
ones of other cameras, which differ in all of this at once.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np

from benchmarks.run import REPOSITORY, describe_place
from benchmarks.tables import table
from lib.configuration import read_configuration
from lib.errors import run_script
from lib.evaluation import areas_under_curves, pred_only_FOV, rank_pixels, roc_and_pr_curves
from lib.experiment import PRETRAINED, Experiment
from src.retinaNN_predict import load_images, open_weights, predict_images
from src.tasks import TASKS

FOV_WIDTH = 540


def main():
    """Simulates each camera, tests, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shipped = PRETRAINED / "vessels_held_out" / "vessels_held_out_configuration.txt"
    parser.add_argument("--configuration", type=Path, default=shipped)
    parser.add_argument("--cameras", nargs="+", choices=CAMERAS, default=list(CAMERAS))
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "cameras.md")
    arguments = parser.parse_args()
    configuration = read_configuration(arguments.configuration, TASKS, "retina")
    ids, areas = areas_on_cameras(configuration, arguments.cameras)
    if arguments.output.suffix == ".json":
        arguments.output.write_text(json.dumps(areas, indent=1) + "\n")
        return
    rows = [
        [camera, CAMERAS[camera][1], *(f"{area:.4f}" for area in both)]
        for camera, both in areas.items()
    ]
    text = (
        f"# {configuration.experiment_name.name} and other cameras, simulated\n\n"
        f"`python -m benchmarks.cameras` {describe_place()}.\n\n"
        f"Training images that only validated: {', '.join(ids)}.\n\n"
        f"{table(('camera', 'fov_width', 'AUC ROC', 'AUC PR'), rows)}\n"
    )
    arguments.output.write_text(text)
    print(text)


def areas_on_cameras(configuration, names):
    """Tests an experiment on the images that only validated, as several cameras would take them.

    Args:
        configuration: lib.configuration.Configuration of a trained retina experiment; each camera
            has a fov_width of its own.
        names: of CAMERAS.
    Returns:
        ids of the images; {name: (area under the ROC curve, under precision-recall)}.
    """
    configuration = configuration.with_values("testing_settings", images="validation")
    weights = open_weights(configuration, Experiment(configuration.experiment_name.name))
    data = load_images(configuration, weights)
    stacks = [data[kind] for kind in ("images", "ground_truth", "fov_masks")]
    areas = {}
    for name in names:
        simulate, fov_width = CAMERAS[name]
        configured = configuration.with_values("data_attributes", fov_width=fov_width)
        areas[name] = test(configured, weights, *simulate(*stacks))
    return data["ids"], areas


def test(configuration, weights, images, ground_truth, fov_masks):
    """Gives both areas of photographs (N, 3, H, W), their truth and FOV (N, 1, H, W)."""
    data = {"images": images, "fov_masks": fov_masks}
    _, probabilities = predict_images(configuration, weights, data)
    inside, truth = pred_only_FOV(probabilities, ground_truth > 0, fov_masks)
    return areas_under_curves(roc_and_pr_curves(rank_pixels(truth, inside)))


def colours(function):
    """Simulates a camera that changes the colours alone: function of float64 in [0, 255]."""

    def simulate(images, ground_truth, fov_masks):
        changed = np.clip(function(images.astype(float)), 0, 255).astype(np.uint8)
        return changed, ground_truth, fov_masks

    return simulate


def scale(stack, factor, interpolation):
    """Scales (N, C, H, W)."""
    return np.stack(
        [
            [cv2.resize(c, None, fx=factor, fy=factor, interpolation=interpolation) for c in image]
            for image in stack
        ]
    )


def enlarge(images, ground_truth, fov_masks):
    """Simulates the same optics with 1.85 times the pixels along each side."""
    masks = (scale(mask, 1.85, cv2.INTER_NEAREST) for mask in (ground_truth, fov_masks))
    return scale(images, 1.85, cv2.INTER_CUBIC), *masks


def narrow(images, ground_truth, fov_masks, angle=45 / 30):
    """Simulates a camera of 30 degrees: the middle of the image, enlarged, in a round FOV."""
    side = int(FOV_WIDTH / angle)
    top, left = ((size - side) // 2 for size in images.shape[2:])
    middle = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
    photographs = scale(images[middle], angle, cv2.INTER_CUBIC)
    truth = scale(ground_truth[middle] * np.uint8(255), angle, cv2.INTER_LINEAR) >= 128
    rows, columns = np.indices(photographs.shape[2:]) + 0.5 - photographs.shape[2] / 2
    inside = np.hypot(rows, columns) < photographs.shape[2] / 2 - 1
    fov = np.broadcast_to(inside, truth.shape)
    return photographs * fov.astype(np.uint8), truth, fov.astype(np.uint8)


def blur(images, ground_truth, fov_masks):
    """Simulates optics out of focus: a Gaussian of 1.2 pixels."""
    blurred = [[cv2.GaussianBlur(c, (0, 0), 1.2) for c in image] for image in images]
    return np.stack(blurred), ground_truth, fov_masks


def add_noise(images):
    """Adds normal noise with a deviation of 8 grey levels."""
    return images + np.random.default_rng(0).normal(0, 8, images.shape)


CAMERAS = {
    "as it is": (colours(lambda x: x), FOV_WIDTH),
    "1.85 times as many pixels": (enlarge, FOV_WIDTH),
    "30 degrees in place of 45": (narrow, FOV_WIDTH),
    "30 degrees, fov_width = 540 * 30 / 45": (narrow, FOV_WIDTH * 30 // 45),
    "gamma 0.6": (colours(lambda x: 255 * (x / 255) ** 0.6), FOV_WIDTH),
    "gamma 1.6": (colours(lambda x: 255 * (x / 255) ** 1.6), FOV_WIDTH),
    "red * 0.7, green * 1.2, blue * 1.5": (
        colours(lambda x: x * np.reshape([0.7, 1.2, 1.5], (3, 1, 1))),
        FOV_WIDTH,
    ),
    "blurred by 1.2 pixels": (blur, FOV_WIDTH),
    "noise of 8 grey levels": (colours(add_noise), FOV_WIDTH),
}


if __name__ == "__main__":
    sys.exit(run_script(main))
