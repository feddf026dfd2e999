"""One page that shows what a test or a prediction gave: report.html, a single file.

Everything is inside the file: pictures as data addresses, curves as vectors, style and script. It
needs no network and no server, and without JavaScript only the threshold stands still. What comes
in is plain data, so that every task gives it in the same form.
"""

import base64
import hashlib
import importlib.metadata
import io
import json
import math
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import jinja2
import keras
import numpy as np
from PIL import Image

from lib.class_metrics import class_scores, confusion_matrix
from lib.devices import describe_devices
from lib.evaluation import ratio, thinned
from lib.files import atomic_write
from lib.progress import duration

TEMPLATE = Path(__file__).with_name("report.html.j2")
NUM_THRESHOLDS = 256
# Longest side of a large picture and of a thumbnail, in pixels.
LARGEST_PICTURE, THUMBNAIL = 640, 96
# Pictures and counts are left out, from the last row on, before the file gets larger than this.
MOST_BYTES = 28_000_000
MOST_CURVE_POINTS = 400
# A network whose answers differ by less than this learnt nothing.
LEAST_RANGE = 1e-3
NO_TRUTH = "There is no ground truth, so there are no scores."
ONE_CLASS = "One class only: every pixel of every image is given the same one."
# The recorded threshold is far from the best one where their F1 on these images differ by more.
FAR_F1 = 0.02
# Okabe and Ito's colours, which differ in brightness too.
COLOURS = {"hit": (255, 255, 255), "missed": (86, 180, 233), "false": (230, 120, 0)}
OUTLINE = (240, 228, 66)
OBJECT_COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)]
    + [(204, 121, 167), (170, 170, 170)],
    np.uint8,
)


@dataclass(frozen=True)
class ReportImage:
    """What the report shows of one image.

    Args:
        id: its name, any text.
        picture: (H, W, 3) uint8, as one looks at it.
        prediction: of two classes (H, W) probability, floats in [0, 1] or uint16 in [0, 65535]; of
            more, (H, W) uint8, the numbers of the classes. None for a thumbnail alone.
        truth: (H, W) like the classes; of two, 0 is background and all else is not. None without.
        inside: (H, W) bool, the pixels that count; None for all.
        scores: {name: number or None} besides those that follow from the pixels.
        flags: sentences on what is to be looked at in this image.
        objects: (H, W) numbers of predicted objects, 0 for none; None for a task without.
        true_objects: the same of the truth.
    """

    id: str
    picture: np.ndarray
    prediction: np.ndarray | None
    truth: np.ndarray | None = None
    inside: np.ndarray | None = None
    scores: dict | None = None
    flags: tuple = ()
    objects: np.ndarray | None = None
    true_objects: np.ndarray | None = None


@dataclass(frozen=True)
class Curve:
    """A curve, or several in one frame.

    Args:
        title: above it.
        x: words below it.
        y: words beside it.
        lines: {name: (xs, ys)}; the name may carry a number, such as an area.
        points: {name: (x, y)}, single points.
        is_unit: whether both axes go from 0 to 1.
    """

    title: str
    x: str
    y: str
    lines: dict
    points: dict | None = None
    is_unit: bool = True


class Report:
    """Takes image after image, keeps of each what the page shows, and writes the page.

    Args:
        title: of the page.
        images: ReportImages to begin with; `add` takes more.
        positive: what the probability is of, a word in the singular such as "vessel"; of more than
            two classes, None.
        threshold: from which probability a pixel counts as positive.
        classes: {name: (red, green, blue)} of more than two classes; else None.
        sort_by: name of the score by which images are sorted, the lowest first: "F1", "accuracy" or
            one of ReportImage.scores. None keeps their order.
    """

    MOST_LARGE = 20

    def __init__(
        self,
        title,
        images=(),
        *,
        positive=None,
        threshold=0.5,
        classes=None,
        sort_by=None,
    ):
        self.title = title
        self.positive = positive
        self.classes = classes
        self.threshold = threshold
        self.sort_by = sort_by
        self.thresholds = threshold_grid(threshold)
        self.images = []  # entries, the worst first
        self.range = [math.inf, -math.inf]
        self.counts = np.zeros((2, NUM_THRESHOLDS), np.int64)  # true and false positives
        self.confusion = np.zeros((len(classes or ()),) * 2, np.int64)
        self.has_truth = self.has_objects = False
        self.num_counted = 0
        for image in images:
            self.add(image)

    def add(self, image):
        """Adds a ReportImage; of more than 20, the worst stay large."""
        entry = {"id": image.id, "flags": list(image.flags), "scores": {}, "large": None}
        entry["size"] = f"{image.picture.shape[1]} x {image.picture.shape[0]}"
        self.has_truth |= image.truth is not None
        self.has_objects |= image.objects is not None
        self.num_counted += image.prediction is not None
        if image.prediction is None:
            entry["tp"] = None
        elif self.classes is None:
            entry.update(self._count(image, entry))
        else:
            self._compare(image, entry)
        if misses_all_objects(image):
            entry["flags"].append("No object was found.")
        entry["scores"].update(image.scores or {})
        entry["thumbnail"] = _jpeg(_shrunk(image.picture, THUMBNAIL), 70)
        self.images.append(entry)
        self.images.sort(key=self._badness)
        is_among_first = any(entry is other for other in self.images[: self.MOST_LARGE])
        if image.prediction is not None and is_among_first:
            entry["large"] = self._layers(image)
        for other in self.images[self.MOST_LARGE :]:
            other["large"] = None

    def write(self, path, *, protocol, scores=None, flags=(), curves=(), facts=None, settings=None):
        """Writes the page.

        Args:
            path: the file.
            protocol: sentences: how was predicted, and where there is a truth, on which pixels of
                which images the scores were computed. That there is none is added.
            scores: {name: number or None} of all images together, as the test counts them.
            flags: sentences on what is to be looked at, besides those found here.
            curves: Curves.
            facts: {name: text}: weights, commit, command, versions, time.
            settings: {section: {key: value}}.
        """
        part = self.num_counted < len(self.images)
        among = f"Judged by the images shown large alone ({self.num_counted}): " if part else ""
        flags = [*(f"{among}{finding}" for finding in self._findings()), *flags]
        page = _environment().get_template(TEMPLATE.name)
        shown = self._within_budget()
        text = page.render(
            report=self,
            images=shown,
            layers=self._layer_names(),
            verdict=self._verdict(flags, scores or {}),
            flags=flags,
            protocol=protocol if self.has_truth else f"{protocol} {NO_TRUTH}".strip(),
            scores={name: number_words(value) for name, value in (scores or {}).items()},
            columns=list(dict.fromkeys(name for one in self.images for name in one["scores"])),
            curves=[_drawn(curve) for curve in curves],
            facts=facts or {},
            settings=settings or {},
            data=self._embedded(shown),
            colours={name: "rgb({}, {}, {})".format(*rgb) for name, rgb in COLOURS.items()},
            outline="rgb({}, {}, {})".format(*OUTLINE),
            number=number_words,
            num_object_colours=len(OBJECT_COLOURS),
            num_large=sum(entry["large"] is not None for entry in shown),
        )
        with atomic_write(path) as beside:
            beside.write_text(text, encoding="utf-8", errors="replace")

    # ------------------------------------------------------------ what is counted

    def _count(self, image, entry):
        """Counts an image of two classes at every threshold."""
        steps = self._steps(image.prediction)
        inside = np.ones(steps.shape, bool) if image.inside is None else image.inside
        seen = steps[inside]
        if seen.size:
            low, high = _extremes(image.prediction[inside])
            self.range = [min(self.range[0], low), max(self.range[1], high)]
        truth = np.zeros(steps.shape, bool) if image.truth is None else image.truth > 0
        counts = np.stack([_at_least(seen[truth[inside]]), _at_least(seen[~truth[inside]])])
        self.counts += counts
        place = self.place
        found = int(counts[:, place].sum())
        if image.truth is None:
            entry["scores"][f"{self.positive} [share]"] = found / max(1, seen.size)
        else:
            entry["scores"].update(pixel_scores(*counts[:, place], *counts[:, 0]))
        if seen.size and found in (0, seen.size):
            word = "No" if found == 0 else "Every"
            entry["flags"].append(f"{word} pixel counts as {self.positive} at {self.threshold:g}.")
        return {"tp": counts[0], "fp": counts[1]}

    def _compare(self, image, entry):
        """Compares an image of several classes with its truth; numbers without a class are out."""
        number = len(self.classes)
        values = np.bincount(image.prediction.ravel(), minlength=number)[:number]
        if image.truth is None:
            shares = values / max(1, values.sum())
            named = zip(self.classes, map(float, shares))
            entry["scores"].update({f"{name} [share]": share for name, share in named})
            pairs = np.diag(values)
        else:
            known = image.truth < number
            if image.inside is not None:
                known &= image.inside
            pairs = confusion_matrix(image.truth[known], image.prediction[known], number)
            scores = class_scores(pairs)
            entry["scores"]["accuracy"] = scores["pixel_accuracy"]
            entry["scores"]["mean IoU"] = scores["mean_iou"]
        self.confusion += pairs
        if np.count_nonzero(values) == 1:
            name = list(self.classes)[int(values.argmax())]
            entry["flags"].append(f"Every pixel is {name}.")

    def _steps(self, probability):
        """Numbers the highest threshold that each probability reaches: (H, W) uint8.

        A pixel counts as positive at thresholds[k] where its number is k or more.
        """
        if probability.dtype == np.uint16:
            levels = (np.arange(65536) / 65535).astype(np.float32)
            return self._steps(levels)[probability]
        found = np.searchsorted(self.thresholds, probability.astype(np.float32), side="right")
        return np.clip(found - 1, 0, NUM_THRESHOLDS - 1).astype(np.uint8)

    @property
    def has_slider(self):
        """Whether thresholds can be tried: objects stay those of the recorded one."""
        return self.classes is None and not self.has_objects

    @property
    def place(self):
        """The number of the recorded threshold among the 256."""
        return int(np.argmin(np.abs(self.thresholds - np.float32(self.threshold))))

    def _badness(self, entry):
        value = entry["scores"].get(self.sort_by) if self.sort_by else 0
        return -math.inf if value is None else value  # undefined: to be looked at first

    # ------------------------------------------------------------ what is said

    def _findings(self):
        """Lists what is wrong with all images together, in sentences."""
        if not self.images:
            return ["There is no image."]
        if self.classes is not None:
            found = np.count_nonzero(self.confusion.sum(axis=0))
            return [ONE_CLASS] if found == 1 else self._worse_than_one_class()
        findings, (low, high) = [], self.range
        if 0 <= high - low < LEAST_RANGE:  # low > high where no pixel counts
            findings.append(
                f"Learnt nothing: the network answers {low:.3f} for every pixel. Look for PLATEAU "
                "in the training's output."
            )
        found, pixels = (int(self.counts[:, place].sum()) for place in (self.place, 0))
        if found in (0, pixels):
            findings.append(
                f"One class only: {'no' if found == 0 else 'every'} pixel counts as "
                f"{self.positive} at a threshold of {self.threshold:g}."
            )
        else:
            findings += self._worse_than_one_class()
        return findings + self._far_threshold()

    def _worse_than_one_class(self):
        """Says so where fewer pixels are right than if all had the most frequent class."""
        if not self.has_truth:
            return []
        if self.classes is not None:
            truths, names = self.confusion.sum(axis=1), list(self.classes)
            right = np.trace(self.confusion)
        else:
            truths, names = self.counts[::-1, 0], [f"not {self.positive}", self.positive]
            positives, false_positives = self.counts[:, self.place]
            right = positives + truths[0] - false_positives
        if right >= truths.max():
            return []
        return [
            f"Worse than one class: {right / truths.sum():.1%} of the pixels are right, and "
            f"{truths.max() / truths.sum():.1%} would be if all were {names[truths.argmax()]}."
        ]

    def _far_threshold(self):
        if self.sort_by != "F1" or not self.has_truth:
            return []
        tp, fp = self.counts
        f1 = 2 * tp / np.maximum(1, tp + fp + tp[0])
        best = int(f1.argmax())
        if f1[best] - f1[self.place] <= FAR_F1:
            return []
        return [
            f"Far from the best threshold: F1 is {f1[self.place]:.3f} at {self.threshold:g} and "
            f"would be {f1[best]:.3f} at {self.thresholds[best]:.2f}. Choose thresholds on "
            "training or validation images, never on those of the test."
        ]

    def _verdict(self, flags, scores):
        """Words the result in a sentence or two."""
        number = f"{len(self.images)} image{'s' * (len(self.images) != 1)}"
        flagged = sum(bool(entry["flags"]) for entry in self.images)
        parts = []
        first = next(((name, value) for name, value in scores.items() if value is not None), None)
        if first:
            parts.append(f"{first[0]} {number_words(first[1])} on {number}.")
        else:
            parts.append(f"{number[0].upper()}{number[1:]} segmented.")
        worst = self.images[0] if self.images else None
        if self.sort_by and len(self.images) > 1 and worst["scores"].get(self.sort_by) is not None:
            value = number_words(worst["scores"][self.sort_by])
            parts.append(f"The worst: {worst['id']}, {self.sort_by} {value}.")
        if flags:
            parts.append("Read the notes below before you use any of it.")
        elif flagged:
            which = "image" if flagged == 1 else f"{flagged} images"
            parts.append(f"Look at the {which} marked below.")
        else:
            parts.append("Nothing conspicuous was found.")
        return {"is_good": not flags, "text": " ".join(parts)}

    # ------------------------------------------------------------ what is shown

    def _layer_names(self):
        """Names the layers that can be laid over the picture, in order of their keys."""
        names = {"original": "Original"}
        if self.has_truth:
            names["truth"] = "Truth"
        names["prediction"] = "Prediction"
        names["errors"] = "Errors" if self.has_truth else "Outlines"
        if self.classes is None:
            names["probability"] = "Probability"
        return names

    def _layers(self, image):
        """Makes the large pictures of an image, as data addresses by layer."""
        layers = {"original": _jpeg(_shrunk(image.picture, LARGEST_PICTURE), 85)}
        height, width = _shrunk_size(image.picture.shape, LARGEST_PICTURE)
        layers["height"], layers["width"] = height, width
        draw = self._draw_classes if self.classes is not None else self._draw_two_classes
        layers.update(draw(image))
        for name, objects in (("prediction", image.objects), ("truth", image.true_objects)):
            if objects is not None:
                layers[name] = _draw_objects(objects)
        if image.objects is not None and not self.has_truth:
            layers["errors"] = _outlines(_shrunk_classes(image.objects))
        return layers

    def _draw_two_classes(self, image):
        levels = image.prediction
        if levels.dtype != np.uint16:
            levels = levels.astype(np.float32)
        steps = self._steps(_shrunk(levels, LARGEST_PICTURE))
        found = steps >= self.place
        layers = {"probability": _png(Image.fromarray(steps))}
        inside = np.ones(found.shape, bool)
        if image.inside is not None:
            inside = _shrunk_mask(image.inside)
            layers["inside"] = _black_and_white(inside)
        found &= inside
        layers["prediction"] = _black_and_white(found)
        if image.truth is None:
            return {**layers, "errors": _outlines(found)}
        truth = _shrunk_mask(image.truth > 0) & inside
        layers["truth"] = _black_and_white(truth)
        layers["errors"] = _error_picture(found * 1 + truth * 2)  # 1 false, 2 missed, 3 hit
        return layers

    def _draw_classes(self, image):
        colours = np.array(list(self.classes.values()), np.uint8)
        predicted = _shrunk_classes(image.prediction)
        layers = {"prediction": _palette(predicted, colours)}
        if image.truth is None:
            return {**layers, "errors": _outlines(predicted)}
        truth = _shrunk_classes(image.truth)
        known = truth < len(colours)
        layers["truth"] = _palette(truth, colours)
        layers["errors"] = _error_picture(np.where(known & (truth != predicted), 1, 0))
        return layers

    def _within_budget(self):
        """Copies the entries, leaving out what would make the file larger than MOST_BYTES."""
        shown, total = [], 0
        for entry in self.images:
            entry = dict(entry)
            for kind in ("thumbnail", "tp", "large"):
                value = entry.get(kind)
                if value is None:
                    continue
                size = {"thumbnail": len, "tp": _num_digits, "large": _num_letters}[kind](value)
                entry[kind] = value if total + size <= MOST_BYTES else None
                total += size if total + size <= MOST_BYTES else 0
            shown.append(entry)
        return shown

    def _embedded(self, shown):
        """Gives the numbers that the script reads, as JSON that no text can end early."""
        data = {"place": self.place, "thresholds": [round(float(t), 6) for t in self.thresholds]}
        data["colours"] = {**COLOURS, "outline": OUTLINE}
        data["hasTruth"] = self.has_truth
        if self.has_slider:
            data["all"] = {"tp": self.counts[0].tolist(), "fp": self.counts[1].tolist()}
            data["images"] = [
                {"tp": one["tp"].tolist(), "fp": one["fp"].tolist()}
                if one["tp"] is not None
                else None
                for one in shown
            ]
        return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def misses_all_objects(image):
    """Tells whether a ReportImage has no predicted object, though its truth may have some."""
    if image.objects is None or image.objects.any():
        return False
    return image.true_objects is None or bool(image.true_objects.any())


def threshold_grid(recorded):
    """Gives 256 rising thresholds, k / 255, of which the nearest one is the recorded one.

    Args:
        recorded: threshold in [0, 1].
    Returns:
        (256,) float32, as probabilities are compared.
    """
    grid = np.arange(NUM_THRESHOLDS) / (NUM_THRESHOLDS - 1)
    last = NUM_THRESHOLDS - 1
    # The first stays 0, which every pixel reaches.
    grid[min(last, max(1, round(recorded * last))) if recorded > 0 else 0] = recorded
    return grid.astype(np.float32)


def pixel_scores(tp, fp, positives, negatives):
    """Computes the scores of two classes from counts; None where one is 0/0.

    Args:
        tp: true positives.
        fp: false positives.
        positives: pixels that are positive in the truth.
        negatives: all others.
    Returns:
        {"F1", "sensitivity", "specificity", "precision"}.
    """
    tp, fp, positives, negatives = map(int, (tp, fp, positives, negatives))
    return {
        "F1": ratio(2 * tp, tp + fp + positives),
        "sensitivity": ratio(tp, positives),
        "specificity": ratio(negatives - fp, negatives),
        "precision": ratio(tp, tp + fp),
    }


def loss_curve(history, is_best=False):
    """Gives the curve of a training's losses; none for weights that tell no epochs.

    Args:
        history: dictionaries with epoch, loss and perhaps val_loss.
        is_best: whether it ends with the best epoch, because the best weights tell no more.
    Returns:
        list of one Curve, or of none.
    """
    if len(history) < 2:
        return []
    lines = {}
    for key, name in (("loss", "training"), ("val_loss", "validation")):
        rows = [row for row in history if row.get(key) is not None]
        if len(rows) > 1:
            lines[name] = ([row["epoch"] for row in rows], [row[key] for row in rows])
    title = "Training, up to the best epoch" if is_best else "Training"
    return [Curve(title, "epoch", "loss", lines, is_unit=False)] if lines else []


def number_words(value):
    """Words a score: 4 decimals up to 1, else 4 digits; "undefined" for None."""
    if value is None:
        return "undefined"
    if isinstance(value, str | int):
        return f"{value:,}" if isinstance(value, int) else value
    decimals = 4 if not abs(value) > 1 else max(1, 3 - int(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def facts_of(weights, seconds):
    """Gives what a page says of its origin.

    Args:
        weights: lib.weights.TrainedWeights.
        seconds: that the work took.
    Returns:
        {name: text}.
    """
    backend = keras.backend.backend()
    packages = ["keras", backend, "numpy"]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    images = weights.record.get("images", {}).get("training")
    facts = {
        "Weights": f"{weights.path}, SHA-256 {hashlib.sha256(weights.content).hexdigest()[:16]}...",
        "Trained": weights.describe_training(),
        "On the images": ", ".join(images) if images else "not recorded",
        "Command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "Commit": _commit(),
        "Versions": ", ".join([f"Python {sys.version.split()[0]}", *versions]),
        "Device": describe_devices(),
        "Time": f"{duration(seconds)}, finished {time.strftime('%Y-%m-%d %H:%M %Z')}",
    }
    return facts


def _commit():
    """Names the commit of this project, with + where files were changed since."""
    command = ["git", "-C", str(TEMPLATE.parent), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not known (no git here)"
    return done.stdout.strip()


# ---------------------------------------------------------------- pictures as data addresses


def _environment():
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _address(kind, content):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _jpeg(picture, quality):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality, optimize=True)
    return _address("jpeg", stream.getvalue())


def _png(image, **options):
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, **options)
    return _address("png", stream.getvalue())


def _black_and_white(mask):
    return _png(Image.fromarray(mask.astype(np.uint8) * 255).convert("1", dither=0))


def _palette(numbers, colours, **options):
    image = Image.fromarray(np.minimum(numbers, len(colours)).astype(np.uint8), mode="P")
    image.putpalette([*colours.ravel().tolist(), 255, 255, 255])  # what is no class is white
    return _png(image, **options)


def _error_picture(codes):
    """Draws 0 nothing, 1 false, 2 missed, 3 hit, 4 outline; nothing is transparent."""
    colours = [(0, 0, 0), *(COLOURS[name] for name in ("false", "missed", "hit")), OUTLINE]
    return _palette(codes, np.array(colours, np.uint8), transparency=0)


def _outlines(numbers):
    return _error_picture(np.where(outline(numbers), 4, 0))


def _draw_objects(objects):
    """Draws objects in colours of their own, their borders black."""
    numbers = _shrunk_classes(objects)
    codes = np.where(numbers > 0, 1 + (numbers - 1) % len(OBJECT_COLOURS), 0)
    codes[outline(numbers) & (numbers > 0)] = 0
    return _palette(codes, np.concatenate([np.zeros((1, 3), np.uint8), OBJECT_COLOURS]))


def outline(numbers):
    """Marks the pixels at which something ends: another number lies above or to the left."""
    ends = np.zeros(numbers.shape, bool)
    ends[1:] |= numbers[1:] != numbers[:-1]
    ends[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    return ends


def _shrunk_size(shape, longest):
    scale = min(1.0, longest / max(shape[:2]))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _shrunk(image, longest):
    """Makes an array (H, W) or (H, W, 3) smaller by means of areas; a small one stays."""
    size = _shrunk_size(image.shape, longest)
    if size == image.shape[:2]:
        return image
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_AREA)


def _shrunk_mask(mask):
    return _shrunk(mask.astype(np.float32), LARGEST_PICTURE) >= 0.5


def _shrunk_classes(numbers):
    """Makes numbers (H, W) smaller by leaving pixels out: their means mean nothing."""
    height, width = _shrunk_size(numbers.shape, LARGEST_PICTURE)
    rows = np.arange(height) * numbers.shape[0] // height
    columns = np.arange(width) * numbers.shape[1] // width
    return numbers[np.ix_(rows, columns)]


def _at_least(steps):
    """Counts the pixels whose number is k or more, for k = 0 ... 255."""
    # In parts: bincount takes eight bytes for each of these.
    parts = np.array_split(steps, 1 + len(steps) // 2**22)
    counts = sum(np.bincount(part, minlength=NUM_THRESHOLDS) for part in parts)
    return np.cumsum(counts[::-1])[::-1]


def _num_digits(counts):
    """Estimates the length of an image's counts, true and false positives, as JSON."""
    return 2 * len(counts) * (1 + len(str(counts[0])))


def _num_letters(layers):
    return sum(len(layer) for layer in layers.values() if isinstance(layer, str))


def _extremes(probability):
    scale = 65535 if probability.dtype == np.uint16 else 1
    return float(probability.min()) / scale, float(probability.max()) / scale


# ---------------------------------------------------------------- curves as vectors


def _drawn(curve):
    """Scales a Curve to a frame of 100 x 100 and words what it shows."""
    ends = [
        (0.0, 1.0) if curve.is_unit else _limits([line[axis] for line in curve.lines.values()])
        for axis in (0, 1)
    ]

    def place(x, y):
        (left, right), (low, high) = ends
        return 100 * (x - left) / (right - left), 100 - 100 * (y - low) / (high - low)

    lines = {}
    for name, (xs, ys) in curve.lines.items():
        xs, ys = thinned(xs, ys, MOST_CURVE_POINTS)
        lines[name] = " ".join("{:.2f},{:.2f}".format(*place(x, y)) for x, y in zip(xs, ys))
    return {
        "title": curve.title,
        "x": curve.x,
        "y": curve.y,
        "lines": lines,
        "points": {name: place(*at) for name, at in (curve.points or {}).items()},
        "ticks": [[_tick(low), _tick((low + high) / 2), _tick(high)] for low, high in ends],
    }


def _limits(values):
    """Gives the ends of an axis that holds all values, a little apart."""
    flat = [float(value) for some in values for value in some if math.isfinite(value)]
    low, high = (min(flat), max(flat)) if flat else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tick(value):
    return f"{value:.3g}"
