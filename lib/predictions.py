"""What a prediction of images of one's own writes: pictures of each, and a table of measurements.

A task says how one image is predicted (ImagePredictor). The folder of the results remembers what is
done, so that a prediction that was stopped goes on with the images that are missing.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import roifile
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage
from skimage.measure import find_contours

from lib.configuration import LONGEST_NAME
from lib.errors import UserError
from lib.experiment import PREDICTION
from lib.files import append_line, atomic_write, remove_left_overs
from lib.image_files import iterate_images
from lib.pictures import as_picture
from lib.report import OUTLINE, ReportImage, outline
from lib.results import MOST_OBJECTS, safe_name

TABLE, REPORT = "measurements.csv", "report.html"
OWN = (TABLE, PREDICTION, REPORT)
# What a table that somebody changed is kept as.
FOUND = "measurements_found_{}.csv"
# Where a picture says which version of its file it shows.
VERSION = "version of the file"
# And the kinds of files that belong to it.
KINDS = "files beside it"
ENDINGS = {
    "probability": "_probability.png",
    "probabilities": "_probabilities.tif",
    "segmentation": "_segmentation.png",
    "overlay": "_overlay.png",
    "objects": "_objects.png",
    "rois": "_rois.zip",
}
# Bytes of an id: a name, the number of one that is there twice, and the page.
LONGEST_ID = LONGEST_NAME + 50
# How the names of the measurements begin that the report has itself.
SHARE = "share of "
# An outline is one pixel wide in images up to this side, and grows with larger ones.
PIXELS_PER_LINE = 1500
# Weak compression: a third of the time for a tenth more bytes.
COMPRESSION = 1
UNITS = {"width": "width [pixels]", "height": "height [pixels]"}
LAST_COLUMN = "notes"


@dataclass(frozen=True)
class Prediction:
    """What a task says of one image.

    Args:
        probabilities: (1, H, W) float32, the probability of the positive class; of more than two
            classes (K, H, W).
        inside: (H, W) bool, where anything may be found; None for everywhere.
        objects: (H, W) whole numbers, 0 for none; None for a task without objects.
        measurements: {"name [unit]": number or None}, the same names for every image. Of more than
            two classes the shares are added by themselves.
        notes: sentences on what is to be known of this image.
    """

    probabilities: np.ndarray
    inside: np.ndarray | None = None
    objects: np.ndarray | None = None
    measurements: dict | None = None
    notes: tuple = ()


@dataclass(frozen=True)
class ImagePredictor:
    """How a task predicts images of one's own.

    Args:
        predict: function of an image (channels, H, W) uint8 of any size -> Prediction, or its
            probabilities alone. ValueError for an image that it cannot take.
        channels: 1 for grey images, 3 for RGB: all others are made so; or those that it must have.
        keeps_16_bits: whether it takes uint16 too, where a file holds 16 bits.
        positive: what the probability is of: "vessel"; None for more than two classes.
        classes: {name: (red, green, blue)} of more than two classes; None for two.
        threshold: from which probability a pixel is positive.
        protocol: sentences on how it is predicted, for the report.
        export: function without arguments -> keras.Model with its weights for one size of tiles,
            and {name: value} of what a program must know that uses it; None where a task offers no
            export.
    """

    predict: object
    channels: int
    positive: str | None = None
    classes: dict | None = None
    threshold: float = 0.5
    protocol: str = ""
    export: object = None
    keeps_16_bits: bool = False

    def images_of(self, path):
        """Reads the images of a file as it takes them; see lib.image_files.iterate_images."""
        return iterate_images(path, self.channels, self.keeps_16_bits)

    def predict_image(self, image):
        """Predicts an image as images_of gives it -> Prediction."""
        predicted = self.predict(image)
        return predicted if isinstance(predicted, Prediction) else Prediction(predicted)

    def segment(self, prediction):
        """Gives the class of every pixel: (H, W) uint8, 0 and 1 for two classes."""
        if self.classes is not None:
            return prediction.probabilities.argmax(axis=0).astype(np.uint8)
        found = prediction.probabilities[0] >= self.threshold
        if prediction.inside is not None:
            found &= prediction.inside
        return found.view(np.uint8)


class PredictionFolder:
    """The folder that a prediction writes to, and the rows of what is done.

    Args:
        folder: made when the first image is saved.
        origin: dictionary of all that decides the results: weights, settings.
        overwrite: whether to remove the results of another origin.
    Raises:
        UserError: if the folder holds results of another origin, or files of somebody else.
    """

    def __init__(self, folder, origin, overwrite=False):
        self.folder = Path(folder)
        self.origin = json.loads(json.dumps(origin))
        remove_left_overs(self.folder, *(f"*{ending}" for ending in ENDINGS.values()), *OWN)
        self._require_folder()
        if overwrite and self._state() not in (None, self.origin):
            self._remove()
        self._require_same_origin()
        self.rows, is_as_written = _read_rows(self.folder / TABLE)
        if not is_as_written:
            self._keep_table()
        self._are_written = False  # whether the table holds these rows and no others
        self._versions = {}  # of the files that were asked for

    def done(self, path):
        """Gives the rows of a file that are done, by page.

        Rows of a file that was changed since, or of which a result is missing, are forgotten, and
        their pictures removed. What the file was then stands in these, whatever the clock says.
        """
        key = text_of(path)
        rows = {row["page"]: row for row in self.rows if row["file"] == key}
        self._versions[key] = _version_of(path)
        if all(self._shows(row["id"], self._versions[key]) for row in rows.values()):
            return rows
        if self._versions[key]:  # else the file itself cannot be seen now
            self._remove_pictures(rows.values())
        self.rows = [row for row in self.rows if row["file"] != key]
        self._are_written = False
        return {}

    def require_free(self, identity, path):
        """Refuses a name of results that another file's have: a.tif, page 1, and a_page001.png.

        Raises:
            ValueError: that names both files.
        """
        for row in self.rows:
            if row["id"].lower() == identity.lower() and row["file"] != text_of(path):
                raise ValueError(
                    f"{path}: its results would be called {identity}, as those of {row['file']} "
                    "are. Rename one of the two files."
                )

    def save(self, row, picture, prediction, predictor):
        """Saves the files of one image, then its row in the table.

        Args:
            row: id, file, page, width and height.
            picture: (H, W, 3) uint8, is drawn on where it can be.
            prediction: Prediction.
            predictor: ImagePredictor.
        """
        if prediction.objects is not None and prediction.objects.max() > MOST_OBJECTS:
            raise ValueError(
                f"{prediction.objects.max():,} objects are more than a picture can number"
            )
        self._begin()
        segmentation = predictor.segment(prediction)
        self._save_probabilities(row["id"], prediction)
        if predictor.classes is None:
            save_png(self.file(row["id"], "segmentation"), Image.fromarray(segmentation * 255))
        else:
            image = Image.fromarray(segmentation, mode="P")
            image.putpalette([c for colour in predictor.classes.values() for c in colour])
            save_png(self.file(row["id"], "segmentation"), image)
        if prediction.objects is not None:
            self._save_objects(row["id"], prediction.objects)
        picture = np.require(picture, requirements="W")
        if prediction.objects is None:
            draw_outlines(picture, segmentation, predictor.classes)
        else:
            draw_object_outlines(picture, prediction.objects)
        version = PngInfo()
        version.add_text(VERSION, self._versions.get(text_of(row["file"]), ""))
        kinds = [kind for kind in ENDINGS if self.file(row["id"], kind).is_file()]
        version.add_text(KINDS, " ".join(kinds))
        save_png(self.file(row["id"], "overlay"), Image.fromarray(picture), pnginfo=version)
        measurements = dict(prediction.measurements or {})
        if predictor.classes is not None:
            shares = np.bincount(segmentation.ravel(), minlength=len(predictor.classes))
            for name, share in zip(predictor.classes, shares / segmentation.size):
                measurements[f"{SHARE}{name} [%]"] = 100 * float(share)
        notes = {LAST_COLUMN: " ".join(prediction.notes)}
        first = {UNITS.get(name, name): text_of(value) for name, value in row.items()}
        self._append({**first, **{k: _cell(v) for k, v in measurements.items()}, **notes})

    def finish(self, paths):
        """Orders the table as the files were given; rows of files that are not among them stay.

        Args:
            paths: of all files.
        Returns:
            the rows of these files.
        """
        place = {text_of(path): number for number, path in enumerate(paths)}
        last = len(place)
        self.rows.sort(key=lambda row: (place.get(row["file"], last), int(row["page"] or 0)))
        self._write_rows()
        return [row for row in self.rows if row["file"] in place]

    def report_image(self, row, predictor, is_large=True):
        """Reads what the report shows of an image from its files.

        Args:
            row: of the table.
            predictor: ImagePredictor.
            is_large: whether it is shown large; else there is a thumbnail of its outlines.
        Returns:
            lib.report.ReportImage.
        """
        identity = row["id"]
        words = {"scores": _numbers(row), "flags": (row[LAST_COLUMN],) * bool(row[LAST_COLUMN])}
        if not is_large:
            return ReportImage(identity, _read(self.file(identity, "overlay")), None, **words)
        kind = "probability" if predictor.classes is None else "segmentation"
        objects = self.file(identity, "objects")
        return ReportImage(
            identity,
            self._original(row, predictor),
            _read(self.file(identity, kind)),
            objects=_read(objects) if objects.is_file() else None,
            **words,
        )

    def _original(self, row, predictor):
        """Reads the image again -> (H, W, 3) uint8; where that fails, with its outlines."""
        number = max(0, int(row["page"] or 1) - 1)
        image = None
        with contextlib.suppress(ValueError):
            with contextlib.closing(predictor.images_of(Path(row["file"]))) as pages:
                image = next(itertools.islice(pages, number, None), None)
        if image is None or isinstance(image, ValueError):
            return _read(self.file(row["id"], "overlay"))
        return as_picture(image[0])

    def file(self, identity, kind):
        """Gives the path of a file of an image; kind is one of ENDINGS."""
        return self.folder / f"{identity}{ENDINGS[kind]}"

    def _save_probabilities(self, identity, prediction):
        """Saves 16 bits, 0 outside: one picture for two classes, else a page a class."""
        planes = np.empty(prediction.probabilities.shape, np.uint16)
        for row in range(planes.shape[1]):  # without a second copy of floats
            planes[:, row] = np.rint(np.clip(prediction.probabilities[:, row], 0, 1) * 65535)
        if prediction.inside is not None:
            planes *= prediction.inside
        if len(planes) == 1:
            save_png(self.file(identity, "probability"), Image.fromarray(planes[0]))
            return
        with atomic_write(self.file(identity, "probabilities")) as beside:
            tifffile.imwrite(beside, planes, photometric="minisblack", compression="zlib")

    def _save_objects(self, identity, objects):
        """Saves the numbers of objects as 16 bits, and their outlines for ImageJ and Fiji."""
        save_png(self.file(identity, "objects"), Image.fromarray(objects.astype(np.uint16)))
        with atomic_write(self.file(identity, "rois")) as beside, zipfile.ZipFile(beside, "w") as z:
            for number, points in outlines_of(objects):
                roi = roifile.ImagejRoi.frompoints(points, name=f"{number:05d}")
                z.writestr(f"{number:05d}.roi", roi.tobytes())

    def _append(self, row):
        """Adds a row at the end of the table: what a kill leaves half-written is not read again."""
        known = list(self.rows[0]) if self.rows else []
        lacking = [name for name in row if name not in known]
        if known and lacking:
            print(
                f"{self.folder / TABLE} has no {', '.join(lacking)}: empty in the rows that are "
                "there. Delete these, and they are predicted anew."
            )
        names = known + lacking  # and what somebody added stays
        if lacking:
            self.rows = [{name: one.get(name, "") for name in names} for one in self.rows]
        row = {name: row.get(name, "") for name in names}
        self.rows.append(row)
        if lacking or not (self.folder / TABLE).is_file():
            self._write_rows()
            return
        line = io.StringIO()
        csv.DictWriter(line, row, lineterminator="\n").writerow(row)
        append_line(self.folder / TABLE, line.getvalue())

    def _write_rows(self):
        if not self.rows:
            (self.folder / TABLE).unlink(missing_ok=True)
            return
        with atomic_write(self.folder / TABLE) as beside:
            with open(beside, "w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, self.rows[0], lineterminator="\n")
                table.writeheader()
                table.writerows(self.rows)

    def _begin(self):
        """Makes the folder, notes where its results come from, and writes the rows anew once."""
        path = self.folder / PREDICTION
        if not path.is_file():
            with atomic_write(path) as beside:
                beside.write_text(json.dumps(self.origin, indent=1) + "\n", encoding="utf-8")
        if not self._are_written:
            self._write_rows()  # without those of changed files, and without half a row
        self._are_written = True

    def _state(self):
        path = self.folder / PREDICTION
        try:
            state = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except (ValueError, RecursionError):
            return {}
        return state if state is None or isinstance(state, dict) else {}

    def _require_folder(self):
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file. Choose another place with --output FOLDER.")
        if self.folder.is_dir() and self._state() is None and any(self.folder.iterdir()):
            raise UserError(
                f"The folder {self.folder} holds files, but no {PREDICTION} of a prediction that "
                "wrote them. Move them, or choose another place with --output FOLDER."
            )

    def _require_same_origin(self):
        state = self._state()
        if state is None or state == self.origin:
            return
        changed = [name for name in self.origin if state.get(name) != self.origin[name]]
        raise UserError(
            f"{self.folder} holds results that were made with other {' and '.join(changed)}. "
            "Add --overwrite to replace them, or write elsewhere with --output FOLDER."
        )

    def _remove(self):
        """Removes what a prediction wrote here, and nothing else."""
        self._remove_pictures(_read_rows(self.folder / TABLE)[0])
        for name in OWN:
            (self.folder / name).unlink(missing_ok=True)
        print(f"Removed the results of an earlier prediction in {self.folder}.")

    def _keep_table(self):
        """Keeps a table that somebody changed: its other rows are about to go."""
        content = (self.folder / TABLE).read_bytes()
        for number in itertools.count(1):
            copy = self.folder / FOUND.format(number)
            if not copy.exists():
                with atomic_write(copy) as beside:
                    beside.write_bytes(content)
            if copy.read_bytes() == content:
                break
        print(
            f"{self.folder / TABLE} is not as it was written: images that it lost are predicted "
            f"anew where they are named again. What was found is kept as {copy.name}."
        )

    def _remove_pictures(self, rows):
        for row in rows:
            for kind in ENDINGS:
                self.file(Path(row["id"]).name, kind).unlink(missing_ok=True)

    def _shows(self, identity, version):
        """Tells whether all files of an image are there, of this version of what it was made of."""
        try:
            with Image.open(self.file(identity, "overlay")) as image:
                kinds = image.info.get(KINDS, "").split()  # none in those of earlier versions
                is_current = bool(kinds) and image.info.get(VERSION) == version
        except (OSError, ValueError, SyntaxError):
            return False
        return is_current and all(self.file(identity, kind).is_file() for kind in kinds)


def measure_objects(objects):
    """Counts objects: {"name [unit]": number}.

    Args:
        objects: (H, W) whole numbers, 0 for none.
    Returns:
        dictionary; areas are None without objects.
    """
    areas = np.bincount(objects.ravel())[1:]
    areas = areas[areas > 0]
    return {
        "number of objects": len(areas),
        "mean area [pixels]": float(areas.mean()) if len(areas) else None,
        "median area [pixels]": float(np.median(areas)) if len(areas) else None,
        "covered [%]": 100 * float(areas.sum()) / objects.size,
    }


def outlines_of(objects):
    """Gives the outlines of objects.

    Args:
        objects: (H, W) whole numbers, 0 for none.
    Yields:
        number, and (num_points, 2) float columns and rows as ImageJ counts them: a pixel reaches
        from its number to the next one. Of an object in several parts, the longest outline.
    """
    for number, place in enumerate(ndimage.find_objects(objects), start=1):
        if place is None:
            continue
        found = find_contours(np.pad(objects[place] == number, 1).astype(np.float32), 0.5)
        rows, columns = max(found, key=len).T
        top, left = place[0].start, place[1].start
        # The padding moved all by one pixel, and the centre of a pixel is half a pixel inside.
        yield number, np.stack([columns + left - 0.5, rows + top - 0.5], axis=1)


def draw_outlines(picture, numbers, classes=None):
    """Draws outlines of what was found on a picture, in place.

    Args:
        picture: (H, W, 3) uint8.
        numbers: (H, W) uint8: 0 and 1, or numbers of classes.
        classes: {name: colour} for an outline in each class's colour; None for one colour.
    """
    colours = [None, OUTLINE] if classes is None else list(classes.values())
    for number in range(1, len(colours)):
        mask = (numbers == number).view(np.uint8)
        found, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(picture, found, -1, colours[number], _line_width(numbers))


def draw_object_outlines(picture, objects):
    """Draws outlines of objects, which may touch, on a picture, in place.

    Args:
        picture: (H, W, 3) uint8.
        objects: (H, W) whole numbers, 0 for none.
    """
    ends, width = outline(objects), _line_width(objects)
    picture[ndimage.binary_dilation(ends, iterations=width - 1) if width > 1 else ends] = OUTLINE


def _line_width(numbers):
    return max(1, round(max(numbers.shape) / PIXELS_PER_LINE))


def _read(path):
    """Reads a picture that was saved here: numbers as they are, or (H, W, 3)."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels.astype(np.uint16) if pixels.dtype.itemsize > 1 else pixels


def _numbers(row):
    """Gives the measurements of a row as numbers, but the shares, which the report has itself."""
    first = ("id", "file", "page", *UNITS.values(), LAST_COLUMN)
    names = [name for name in row if name not in first and not name.startswith(SHARE)]
    return {name: _number(row[name]) for name in names}


def _number(cell):
    """Reads a cell of the table: whole numbers stay whole, an empty one is None."""
    if cell in ("", None):
        return None
    number = float(cell)
    return int(number) if number.is_integer() else number


def save_png(path, image, **options):
    """Saves a PIL image as PNG, whole or not at all."""
    with atomic_write(path) as beside:
        image.save(beside, "PNG", compress_level=COMPRESSION, **options)


def text_of(path):
    """Gives a path as text that every file can hold, also where its bytes are not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def name_of(row):
    """Gives what the results of a row's file are called: its id without the page."""
    return row["id"].rpartition("_page")[0] if row["page"] else row["id"]


def weights_sum(weights):
    """Gives the SHA-256 of a weights file that was read."""
    return hashlib.sha256(weights.content).hexdigest()


def _version_of(path):
    """Words size and time of a file: another picture has others."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


def _read_rows(path):
    """Reads the rows of a table, but those that are not as they were written, or cut off.

    Returns:
        list of rows, and whether the table is as it was written or cut off.
    """
    if not path.is_file():
        return [], True
    text = path.read_bytes().decode("utf-8-sig", "replace").replace("\0", "")
    whole = text[: text.rfind("\n") + 1]
    try:
        rows = list(csv.DictReader(io.StringIO(whole, newline="")))
    except csv.Error:
        rows = []
    kept = [row for row in rows if _is_row(row)]
    return kept, len(kept) == len(rows) and bool(rows or not whole)


def _is_row(row):
    """Tells whether a row is as it was written; its id, above all, must not lead elsewhere."""
    if not all(isinstance(part, str) for part in (*row, *row.values())):
        return False  # more or fewer cells than names
    if not {"id", "file", "page", LAST_COLUMN} <= row.keys():
        return False
    try:
        _numbers(row)
    except ValueError:
        return False
    is_page = not row["page"] or (row["page"].isascii() and row["page"].isdigit())
    is_safe = safe_name(row["id"]) == row["id"] and len(row["id"].encode()) <= LONGEST_ID
    return is_page and is_safe


def _cell(value):
    """Words a number for the table: 6 digits; nothing where there is none."""
    if value is None:
        return ""
    return value if isinstance(value, int | str) else f"{value:.6g}"
