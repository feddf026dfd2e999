"""What every testing writes: probabilities as HDF5, grids of pictures, scores, and a report.

Beside the results lies a list of the files that a test wrote. The next test removes these and no
others: a file that is in the way and not on the list is somebody's, and is refused.
"""

import contextlib
import json
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from lib.configuration import LONGEST_NAME
from lib.errors import UserError
from lib.experiment import TESTING_FILES
from lib.files import append_line, atomic_write, new_hdf5, remove_left_overs, write_hdf5
from lib.image_files import shortened
from lib.pictures import as_rgb, group_images, visualize
from lib.report import facts_of, loss_curve

GRIDS = ("originals", "groundTruths", "predictions", "segmentations")
# What a test may write, besides pictures that carry ids.
NAMES = (
    "predictions*.hdf5",
    "performances.txt",
    "performances.json",
    "report*.html",
    "submission.tif",
    "[!.]*_RES/*",
    "ROC.png",
    "Precision_recall.png",
    "confusion_matrix.png",
    *(f"{prefix}_{stack}.png" for prefix in ("all", "all_test") for stack in GRIDS),
    "*_Original_*Prediction*.png",
)
# Folders of pictures that are called like the images.
ID_FOLDERS = ("segmentations", "probabilities", "objects")
MOST_OBJECTS = 2**16 - 1
CHUNK = 256  # side of a chunk of predictions in pixels


class Results:
    """The folder that a test writes to, and the list of what it wrote there.

    Args:
        folder: the folder.
        name: of the experiment, which some files carry.
    """

    def __init__(self, folder, name):
        self.folder = Path(folder)
        self.name = name
        self.start = time.monotonic()

    def require_room(self, ids=()):
        """Refuses a folder in which a test would replace files that no test wrote.

        Args:
            ids: of the images, whose pictures will be written.
        Raises:
            UserError: that names them.
        """
        known = set(self._known())
        pictures = [f"{kind}/{name}.png" for kind in ID_FOLDERS for name in file_names(ids)]
        there = [p.relative_to(self.folder).as_posix() for n in NAMES for p in self.folder.glob(n)]
        there += [name for name in pictures if (self.folder / name).exists()]
        foreign = sorted(name for name in there if name not in known)
        if foreign:
            raise UserError(
                f"{self.folder} holds files that no test of this project is known to have written, "
                f"and that this one would replace: {shortened(foreign)}. Move them, or write the "
                "results elsewhere with --output FOLDER."
            )

    def remove(self):
        """Removes what an earlier test wrote, and says so: no old score beside new weights."""
        found = [self.folder / name for name in self._known() if (self.folder / name).is_file()]
        for path in found:
            path.unlink(missing_ok=True)  # the list may name it twice
        (self.folder / TESTING_FILES).unlink(missing_ok=True)
        # Not those of a training, which may run in the folder.
        remove_left_overs(self.folder, *(name for name in NAMES if "/" not in name))
        for part in (*map(self.folder.joinpath, ID_FOLDERS), *self.folder.glob("[!.]*_RES")):
            remove_left_overs(part, "*")
        if found:
            print(f"Removed the results of an earlier test in {self.folder}.")

    def file(self, name):
        """Puts a file on the list and gives its path; the folder is made if need be.

        Args:
            name: relative to the folder.
        """
        append_line(self.folder / TESTING_FILES, f"{name}\n")
        return self.folder / name

    def save_predictions(self, probabilities, ids, configuration, name="predictions.hdf5"):
        """Saves probabilities as HDF5 with the ids of the images and the settings.

        Args:
            probabilities: (N, K, H, W) float32.
            ids: N names.
            configuration: lib.configuration.Configuration.
            name: of the file.
        """
        settings = json.dumps(configuration.as_dict())
        write_hdf5(self.file(name), probabilities, ids=ids, settings=settings)

    @contextlib.contextmanager
    def predictions_by_image(self, ids, configuration, name="predictions.hdf5"):
        """Saves probabilities as HDF5 one image after the other, of any sizes.

        They are rounded to float16, to 3 digits: `probabilities/0`, `probabilities/1`, ... of
        (K, H, W), with ids and settings as in save_predictions. The file appears when it is whole.

        Args:
            ids: N names.
            configuration: lib.configuration.Configuration.
            name: of the file.
        Yields:
            function of the number of an image and its (K, H, W) float32 that saves them.
        """
        with atomic_write(self.file(name)) as beside, new_hdf5(beside) as file:
            file["ids"] = list(ids)
            file["settings"] = json.dumps(configuration.as_dict())

            def save(number, probabilities):
                file.create_dataset(
                    f"probabilities/{number}",
                    data=probabilities.astype(np.float16),
                    chunks=(1, *(min(side, CHUNK) for side in probabilities.shape[1:])),
                    compression="lzf",
                )

            yield save

    def save_class_numbers(self, name, classes, colours):
        """Saves a picture in class colours whose pixel values are class numbers.

        Args:
            name: as file_names makes it: segmentations/<name>.png.
            classes: (H, W) uint8.
            colours: K tuples of red, green and blue in [0, 255].
        """
        picture = Image.fromarray(classes, "P")
        picture.putpalette(np.asarray(colours, np.uint8).tobytes())
        with atomic_write(self.file(f"segmentations/{name}.png")) as beside:
            picture.save(beside, "PNG")

    def save_object_numbers(self, name, objects):
        """Saves the numbers of objects as a picture of 16 bits.

        Args:
            name: as file_names makes it: objects/<name>.png.
            objects: (H, W) integers, 0 is background.
        Raises:
            UserError: if there are more objects than 16 bits can tell apart.
        """
        if objects.max(initial=0) > MOST_OBJECTS:
            raise UserError(
                f"{name} must hold at most {MOST_OBJECTS} objects to be saved. Received: "
                f"{objects.max()}. Set [testing settings] smallest_object, or cut the image."
            )
        with atomic_write(self.file(f"objects/{name}.png")) as beside:
            Image.fromarray(objects.astype(np.uint16)).save(beside, "PNG")

    def save_pictures(self, folder, ids, stack):
        """Saves a picture for each image: <folder>/<id>.png.

        Args:
            folder: one of ID_FOLDERS.
            ids: N names.
            stack: (N, channels, H, W) uint8, or floats in [0, 1].
        """
        for name, image in zip(file_names(ids), stack):
            visualize(image.transpose(1, 2, 0), self.file(f"{folder}/{name}.png"))

    def save_grids(self, stacks, num_in_row, prefix="all"):
        """Saves every stack of images as a grid: all_<name>.png.

        Args:
            stacks: {name: (N, channels, H, W)} uint8, or floats in [0, 1].
            num_in_row: images side by side.
            prefix: of the files.
        """
        for name, stack in stacks.items():
            visualize(group_images(stack, num_in_row), self.file(f"{prefix}_{name}.png"))

    def save_comparisons(self, stacks, num_in_row, title):
        """Saves the stacks below each other, num_in_row images side by side: <name>_<title><i>.png.

        Args:
            stacks: {name: (N, channels, H, W)}, channels 1 or 3; one type for all.
            num_in_row: images side by side; the last picture may hold fewer.
            title: of the files: Original_GroundTruth_Prediction.
        """
        channels = max(stack.shape[1] for stack in stacks.values())
        rows = [as_rgb(stack) if channels == 3 else stack for stack in stacks.values()]
        for number, first in enumerate(range(0, len(rows[0]), num_in_row)):
            stripes = [group_images(row[first : first + num_in_row], num_in_row) for row in rows]
            path = self.file(f"{self.name}_{title}{number}.png")
            visualize(np.concatenate(stripes), path)

    def save_performances(self, text, scores):
        """Saves performances.txt and performances.json, and prints the text.

        Args:
            text: of several lines.
            scores: dictionary of what JSON can hold.
        """
        print("\n" + text)
        with atomic_write(self.file("performances.txt")) as beside:
            beside.write_text(text, encoding="utf-8")
        with atomic_write(self.file("performances.json")) as beside:
            beside.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")

    def save_report(
        self, report, configuration, weights, *, curves=(), flags=(), name="report", **words
    ):
        """Saves report.html, with the losses of the training and where it all came from.

        Args:
            report: lib.report.Report with its images.
            configuration: lib.configuration.Configuration.
            weights: lib.weights.TrainedWeights.
            curves: lib.report.Curves.
            flags: as lib.report.Report.write takes them.
            name: of the file.
            words: protocol and scores as lib.report.Report.write takes them.
        """
        path = self.file(f"{name}.html")
        if weights.is_unfinished:
            flags = [*flags, f"The training is not finished: {weights.describe_training()}."]
            print(flags[-1])
        report.write(
            path,
            curves=[*curves, *loss_curve(weights.history, weights.is_best)],
            flags=flags,
            facts=facts_of(weights, time.monotonic() - self.start),
            settings=configuration.as_dict(),
            **words,
        )
        print(f"Look at {path}, in any browser.")

    def _known(self):
        """Lists the files of earlier tests, also of those from before there was a list."""
        listed = self.folder / TESTING_FILES
        if listed.is_file():
            lines = listed.read_text(encoding="utf-8", errors="replace").split("\n")
            return [name for name in lines if self._is_of_a_test(name)]
        predictions = self.folder / "predictions.hdf5"
        is_ours = predictions.is_file() and _written_by_a_test(predictions)
        # The weights of retina-unet lie beside the results of its own test.
        is_original = any(self.folder.glob("*_best_weights.h5"))
        if not (is_ours or is_original):
            return []
        found = [path for pattern in NAMES for path in self.folder.glob(pattern)]
        if is_ours:
            found += self.folder.glob("segmentations/*.png")
        return [path.relative_to(self.folder).as_posix() for path in found]

    def _is_of_a_test(self, name):
        """Tells whether a test writes files of a name: a list from elsewhere may name any."""
        parts = Path(name).parts
        pictures = [f"{folder}/*.png" for folder in ID_FOLDERS]
        return (
            0 < len(parts) <= 2
            and not {"..", "/"} & set(parts)
            and "\0" not in name
            and any(Path(name).match(pattern) for pattern in (*NAMES, *pictures))
            and not (self.folder / parts[0]).is_symlink()
        )


def open_results(configuration, experiment, ids=()):
    """Gives the folder of a test's results: validation/ and training/ have their own.

    Args:
        configuration: lib.configuration.Configuration with [testing settings] images.
        experiment: lib.experiment.Experiment.
        ids: of the images, whose pictures will be written.
    Returns:
        Results.
    Raises:
        UserError: if files of somebody else are in the way.
    """
    subset = configuration.testing_settings.images
    folder = experiment.results if subset == "test" else experiment.results / subset
    results = Results(folder, experiment.name)
    results.require_room(ids)
    return results


def file_names(ids, taken=()):
    """Makes names for files of ids, whatever a foreign HDF5 file calls its images.

    Example: "../../eye/7" and "eye_7" become "eye_7" and "eye_7_2".

    Args:
        ids: list of texts.
        taken: names that others have.
    Returns:
        list of different texts, as safe_name makes them, of at most LONGEST_NAME bytes and a
        number.
    """
    names = [*taken]
    for identity in ids:
        start = safe_name(identity).encode()[:LONGEST_NAME].decode(errors="ignore")
        base = name = safe_name(start)  # cut at a dot or a space, it ends there
        number = 1
        while name.lower() in map(str.lower, names):
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names[len(taken) :]


def safe_name(identity):
    """Makes a text fit to be a file's name: no slashes and control signs, no dots at its ends."""
    kept = (c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in str(identity))
    return "".join(kept).strip("._ ") or "image"


def _written_by_a_test(path):
    """Tells whether an HDF5 file holds the settings that a test stores."""
    try:
        with h5py.File(path, "r") as file:
            return "settings" in file
    except OSError:
        return False
