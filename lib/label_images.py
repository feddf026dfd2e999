"""Label images: what their files hold, and how it becomes class numbers.

A label image shows classes as grey numbers, as the numbers of a palette, or as colours. Which of
these a data set means follows from all its files and its list of classes together: find_coding.
"""

import colorsys
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.class_metrics import IGNORE
from lib.errors import UserError, counted, raise_if_any
from lib.image_files import (
    MOST_CLASSES,
    drawn_shape,
    is_transparent,
    kind_of,
    luma,
    packed,
    read_picture,
    require_lossless,
    shortened,
    unpacked,
)
from lib.pre_processing import resized_labels
from lib.tiff_files import ImageError

LARGEST_CLASS = IGNORE - 1
# More values or colours than these, without a list of classes, are greys or objects.
MOST_UNLISTED = 64
TWO_CLASSES = ("background", "foreground")
# What a line of classes.txt ends with where colours are used.
COLOUR = re.compile(r"#([0-9a-fA-F]{6})$")
COLOUR_IN_FRONT = re.compile(r"#[0-9a-fA-F]{6}\s")
# Colours of classes that have none: well apart, also for most colour-blind readers (Okabe and Ito
# 2008), then hues around the circle.
FIRST_COLOURS = (0x000000, 0xE69F00, 0x56B4E9, 0x009E73, 0xF0E442, 0x0072B2, 0xD55E00, 0xCC79A7)
GOLDEN_RATIO = 0.6180339887
# A number that a line of classes.txt starts with: not that of "3d" or of "0.5 mm".
LINE_NUMBER = re.compile(r"\d+(?!\w|\.\d)")
IS_OBJECTS = "if they are the numbers of objects, add --instances"


@dataclass(frozen=True)
class Classes:
    """The classes of a data set; the number of a class is its place.

    Args:
        names: K different texts.
        colours: K tuples of red, green and blue in [0, 255].
    """

    names: tuple
    colours: tuple

    def __len__(self):
        return len(self.names)


class Label(NamedTuple):
    """What a label file holds: numbers, colours, or both where it has a palette."""

    numbers: np.ndarray | None  # (H, W) integers >= 0
    colours: np.ndarray | None  # (H, W) int32, 0xRRGGBB; None for numbers that are no grey
    has_palette: bool = False
    ink: int | None = None  # of shapes on transparency, brightest channel: 0 is black


class LabelContent(NamedTuple):
    """The numbers and colours that occur in a label file, and how often; without its pixels."""

    path: Path
    shape: tuple  # (height, width)
    numbers: dict | None
    colours: dict | None
    palette: dict  # number: colour, of those that occur
    ink: int | None = None  # as of Label


class Coding(NamedTuple):
    """How what a label file holds becomes class numbers."""

    by_colour: bool
    values: np.ndarray  # sorted numbers or colours (0xRRGGBB)
    classes: np.ndarray  # uint8, the class of each of them, or IGNORE

    def decode(self, label):
        """Turns a Label into classes (H, W) uint8; its values must be those of the survey."""
        pixels = label.colours if self.by_colour else label.numbers
        return self.classes[np.searchsorted(self.values, pixels)]

    def count(self, content, num_classes):
        """Counts the pixels of every class in a LabelContent -> (num_classes,) int64."""
        counts = content.colours if self.by_colour else content.numbers
        classes = self.classes[np.searchsorted(self.values, list(counts))]
        return np.bincount(classes, list(counts.values()), IGNORE + 1)[:num_classes].astype(int)


# ---------------------------------------------------------------- files


def read_label(path):
    """Reads a label image.

    The numbers of a palette are kept beside its colours; a shape drawn in one colour on
    transparency is read from the alpha channel; greys of 2 and 4 bits are the numbers they were,
    and so are those of a PGM file with another highest number than 255, and of a TIFF file whose 0
    is white: tifffile writes True as 1 and calls it black.

    Args:
        path: an image file without loss: PNG, TIFF, GIF, BMP, lossless WebP.
    Returns:
        Label.
    Raises:
        ValueError: if it cannot be read whole, is a JPEG file, holds numbers that are not whole or
            below 0, or is transparent in a way that says nothing.
    """
    picture = read_picture(path)
    require_lossless(path)
    pixels = picture.pixels
    if picture.stored is not None:
        pixels = picture.stored[np.newaxis]
    if picture.indices is not None:
        colours = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
        return Label(picture.indices, packed(colours), has_palette=True)
    shape = drawn_shape(picture)
    if shape is not None:
        return Label(shape, packed(np.stack([shape] * 3)), ink=int(picture.pixels.max()))
    if is_transparent(picture):
        in_places = " in places" if picture.alpha.any() else ""
        raise ImageError(
            f"{path} must not be transparent{in_places}: what class do these pixels have? "
            "Received: an alpha channel beside several colours. Save it without one."
        )
    if (pixels == pixels[:1]).all() and len(pixels) in (1, 3):
        numbers = _whole_numbers(path, pixels[0])
        is_grey = numbers.max() <= 255
        return Label(numbers, packed(np.stack([numbers] * 3)) if is_grey else None)
    if len(pixels) != 3 or pixels.dtype != np.uint8:
        raise ImageError(
            f"{path} must be a label image: class numbers, or colours of 8 bits a channel. "
            f"Received: {kind_of(picture)}. Save the numbers as a grey image (PNG or TIFF)."
        )
    return Label(None, packed(pixels))


def read_instances(path, highest=2**31 - 1):
    """Reads object numbers.

    Args:
        path: an image file, as of read_label.
        highest: the highest number that may occur, below 2^31.
    Returns:
        (height, width) int32; 0 is background.
    Raises:
        ValueError: as read_label, for colours, and for a higher number.
    """
    numbers = read_label(path).numbers
    if numbers is None:
        raise ImageError(
            f"{path} must hold object numbers. Received: an image in colours. Save the numbers as "
            "a grey image of 16 bits (PNG or TIFF)."
        )
    if numbers.max() > highest:
        raise ImageError(
            f"{path} must hold object numbers of at most {highest:,}. Received: {numbers.max():,}. "
            "Renumber them (skimage.segmentation.relabel_sequential)."
        )
    return numbers.astype(np.int32)


def resized_label(label, size):
    """Scales a Label to (height, width); None leaves it. See lib.pre_processing.resized_labels."""
    parts = {"numbers": label.numbers, "colours": label.colours}
    there = {name: part for name, part in parts.items() if part is not None}
    return label._replace(**{name: resized_labels(part, size) for name, part in there.items()})


def content_of(path, label):
    """Lists the numbers and colours of a Label -> LabelContent."""
    path = Path(path)
    if label.numbers is None:
        return LabelContent(path, label.colours.shape, None, _counts(label.colours), {})
    numbers, colours = _counts(label.numbers), None
    if label.colours is not None:
        colour_of = np.zeros(int(label.numbers.max()) + 1, np.int32)
        colour_of[label.numbers] = label.colours
        palette = {number: int(colour_of[number]) for number in numbers}
        colours = dict.fromkeys(palette.values(), 0)
        for number, colour in palette.items():
            colours[colour] += numbers[number]
    palette = palette if label.has_palette else {}
    return LabelContent(path, label.numbers.shape, numbers, colours, palette, label.ink)


def _counts(pixels):
    """Counts the values of an array of integers >= 0 -> {value: pixels}."""
    if pixels.dtype.itemsize <= 2:
        counts = np.bincount(pixels.ravel())  # faster than np.unique, which sorts
        values = np.flatnonzero(counts)
        return dict(zip(values.tolist(), counts[values].tolist()))
    values, counts = np.unique(pixels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist()))


def _whole_numbers(path, grey):
    if grey.dtype.kind not in "biuf" or not np.isfinite(grey).all() or (np.mod(grey, 1) != 0).any():
        raise ImageError(f"{path} must hold whole numbers. Received: others ({grey.dtype}).")
    if grey.min() < 0:
        raise ImageError(
            f"{path} must hold numbers of at least 0. Received: {grey.min():g}. In labels of "
            f"classes {IGNORE} is what counts nowhere."
        )
    return grey if grey.dtype.kind == "u" else grey.astype(np.int64)


# ---------------------------------------------------------------- classes and their colours


def default_colours(number):
    """Gives colours for classes that have none: black, then colours that are far apart.

    Args:
        number: K.
    Returns:
        tuple of K different tuples of red, green and blue.
    """
    colours = [unpacked(colour) for colour in FIRST_COLOURS[:number]]
    for index in range(number - len(colours)):
        value = (1.0, 0.75, 0.5)[index % 3]
        rgb = colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.45 + 0.2 * (index % 4 > 1), value)
        colours.append(tuple(round(255 * share) for share in rgb))
    return tuple(colours)


def read_classes(path):
    """Reads classes.txt: one class a line, its name and, where colours are used, #rrggbb.

    Lines that start with # and are no colour are comments. Example: `road surface #804080`. Where
    every name starts with a number, these count from 0.

    Args:
        path: a text file in UTF-8.
    Returns:
        Classes, in the order of their numbers; colours are None where the file has none.
    Raises:
        UserError: with all problems: names or colours that occur twice, colours for some only,
            numbers in another order, fewer than two classes or more than 255.
    """
    lines = [line.strip() for line in _text_of(path).splitlines()]
    names, colours, problems = [], [], []
    for number, line in enumerate(lines, start=1):
        if not line or (line.startswith("#") and not COLOUR.fullmatch(line)):
            continue
        found = COLOUR.search(line)
        name = COLOUR.sub("", line).rstrip(" \t,;:=")
        place = f"{path}, line {number}"
        if not name:
            problems.append(f"{place} has a colour without a name: {line}. Write: name {line}")
        if not name.isprintable():
            problems.append(f"{place} holds signs that cannot be shown: {name!r}. Remove them.")
        if name and "#" in name:
            problems.append(f"{place} must end with a colour like #80ff00. Received: {line}")
        names.append(name)
        colours.append(int(found[1], 16) if found else None)
    problems += [f"{path} lists the class {name} twice." for name in _twice(names)]
    problems += _numbers_out_of_place(path, names)
    given = [colour for colour in colours if colour is not None]
    problems += [f"{path} gives the colour #{colour:06x} twice." for colour in _twice(given)]
    if given and len(given) < len(colours):
        bare = [name for name, colour in zip(names, colours) if colour is None]
        problems.append(f"{path} gives colours to some classes only; without: {shortened(bare)}.")
    if not 2 <= len(names) <= LARGEST_CLASS + 1:
        problems.append(
            f"{path} must list 2 to {LARGEST_CLASS + 1} classes, one a line; the background counts "
            f"as one. Received: {len(names)}."
            + " Lines that begin with a colour are comments: write it behind the name."
            * any(COLOUR_IN_FRONT.match(line) for line in lines)
        )
    raise_if_any(problems)
    return Classes(tuple(names), tuple(map(unpacked, given)) if given else None)


def _numbers_out_of_place(path, names):
    """Words the first class that has another number than its place, where all have numbers."""
    numbers = [LINE_NUMBER.match(name) for name in names]
    if not all(numbers):
        return []
    return [
        f"{path} must list the classes by number, from 0 and without gaps. Received: {name}, in "
        f"the place of class {place}. Sort the lines, or leave the numbers out: the place counts."
        for place, (name, number) in enumerate(zip(names, numbers))
        if int(number[0]) != place
    ][:1]


def _text_of(path):
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} must be a text in UTF-8. Save it as such.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _twice(items):
    return [item for item in dict.fromkeys(items) if item and items.count(item) > 1]


# ---------------------------------------------------------------- from files to class numbers


def find_coding(contents, listed=None, ignored=()):
    """Finds out how the labels of a data set show their classes, and checks every file.

    By colour: if a file has colours and no palette, if palettes disagree, if all that occurs is
    listed with its colour, or if palettes and greys show the same two colours by other numbers.
    Otherwise by number. Without a list, two values of whatever size are two classes, the lower is
    background; more are class numbers as they are, and colours are numbered from dark to bright.
    IGNORE (255) is no class. Classes behind an ignored one move up.

    Args:
        contents: LabelContent of all label files.
        listed: Classes as read_classes gives them; None without a list.
        ignored: names or numbers (texts) of classes that are to count nowhere.
    Returns:
        (Coding, Classes, list of remarks for the user).
    Raises:
        UserError: with all problems, each naming its file.
    """
    raise_if_any(counted(_opaque_among_shapes(contents)))
    if _are_two_colours_of_several_numbers(contents, listed, ignored):
        by_colour, find = True, _classes_of_two_colours
    elif _is_by_colour(contents, listed):
        by_colour, find = True, _classes_by_colour
    else:
        by_colour, find = False, _classes_by_number
    classes, values, remarks = find(contents, listed, ignored)
    used = _used_colours(contents) if by_colour else _used_numbers(contents)
    numbers = _left_out(classes, ignored, {values.get(value, value) for value in used})
    kept = [place for place, number in enumerate(numbers) if number != IGNORE]
    if len(kept) < 2:
        raise UserError(
            "The labels must show at least two classes, background and another. Received: "
            f"{', '.join(classes.names[place] for place in kept) or 'none'}. "
            "Are these labels? If objects are numbered, add --instances."
        )
    if len(kept) < len(numbers):
        moved = [f"{classes.names[p]} {p} to {numbers[p]}" for p in kept if p != numbers[p]]
        anew = f" Classes behind it get new numbers: {shortened(moved)}." if moved else ""
        remarks.append(f"Ignored: {', '.join(ignored)}.{anew}")
    coded = sorted((value, numbers[place]) for value, place in values.items())
    if not by_colour and IGNORE not in values:
        coded = sorted([*coded, (IGNORE, IGNORE)])
    table = np.array(coded, np.int64)
    names, colours = (
        tuple(items[place] for place in kept) for items in (classes.names, classes.colours)
    )
    return (
        Coding(by_colour, table[:, 0], table[:, 1].astype(np.uint8)),
        Classes(names, colours),
        remarks,
    )


def _opaque_among_shapes(contents):
    """Lists opaque labels whose foreground is unknown, as others show shapes on transparency.

    Those are read whatever colour they were drawn in. White on black means the same, where no
    other shape was drawn in black.
    """
    shapes = [one for one in contents if one.ink is not None and any(one.numbers)]
    if not shapes:
        return []
    example = min(shapes, key=lambda one: one.ink)
    known = {0}.union(*(one.numbers for one in shapes)) if example.ink else set()
    in_black = "" if example.ink else ", drawn in black,"
    return [
        f"{one.path} must be transparent around its shapes, as {example.path}{in_black} is, or "
        "what is foreground in it is unknown. Received: an opaque image. Save all labels alike: "
        "white on black, without transparency."
        for one in contents
        if one.ink is None and not (one.numbers and known.issuperset(one.numbers))
    ]


def _is_by_colour(contents, listed):
    if any(content.numbers is None for content in contents):
        return True
    palette = {}
    for content in contents:
        for number, colour in content.palette.items():
            if palette.setdefault(number, colour) != colour:
                return True
    if listed is None or listed.colours is None:
        return _is_grey_but_not_in_order(palette)
    known = {int(packed(colour)) for colour in listed.colours}
    used = _used_colours(contents)
    return used <= known or bool(palette and used & known - {0})


def _are_two_colours_of_several_numbers(contents, listed, ignored):
    """Tells whether palettes and greys show two colours: black and white as 0 and 1, or 255.

    In each file different numbers must have different colours, or they are what classes are.
    """
    if str(IGNORE) in ignored or (listed and (listed.colours or len(listed) > 2)):
        return False
    return (
        len(_used_numbers(contents)) > len(_used_colours(contents)) == 2
        and -1 not in _used_colours(contents)
        and all(one.numbers and len(one.numbers) == len(one.colours) for one in contents)
    )


def _is_grey_but_not_in_order(palette):
    """Tells whether a palette is that of a grey picture, whose numbers mean nothing: white is 0."""
    greys = [colour for _, colour in sorted(palette.items())]
    return all(g >> 16 == g & 255 == g >> 8 & 255 for g in greys) and greys != sorted(greys)


def _used_colours(contents):
    """Gives all colours; -1 stands for numbers that are none."""
    return set().union(*({-1} if c.colours is None else c.colours for c in contents))


def _used_numbers(contents):
    """Gives all numbers."""
    return set().union(*(content.numbers or () for content in contents))


def _classes_by_colour(contents, listed, ignored):
    """Gives classes, {colour: number} and remarks."""
    used = sorted(_used_colours(contents) - {-1}, key=luma)
    if listed is None:
        raise_if_any(counted([words for content in contents for words in _no_colours(content)]))
        if len(used) > MOST_UNLISTED:
            raise UserError(
                f"The labels in {contents[0].path.parent} show {len(used)} colours. Expected at "
                f"most {MOST_UNLISTED} without a list of classes. Were they smoothed or scaled? "
                "Write classes.txt with a line for each class: name #rrggbb."
            )
        names = tuple(f"#{colour:06x}" for colour in used)
        remark = (
            f"The labels show {len(used)} colours, numbered from dark to bright: "
            f"{shortened(names, 12)}. For names write classes.txt: name #rrggbb."
        )
        classes = Classes(names, tuple(map(unpacked, used)))
        remarks = [remark, *_colours_of_one_file(contents, used, names, ignored)]
        return classes, {colour: number for number, colour in enumerate(used)}, remarks
    if listed.colours is None:
        shown = shortened([f"#{colour:06x}" for colour in used], 12)
        raise UserError(
            "The labels show classes as colours. Write the colour behind each name in classes.txt, "
            f"like road #804080. The labels have: {shown}."
        )
    values = {int(packed(colour)): number for number, colour in enumerate(listed.colours)}
    problems = [
        problem
        for content in contents
        for problem in _unlisted_colours(content, set(values), listed)
    ]
    raise_if_any(counted(problems))
    return listed, values, []


def _classes_of_two_colours(contents, listed, ignored):
    """Gives classes, {colour: number} and remarks; the darker colour is background."""
    used = sorted(_used_colours(contents), key=luma)
    darker, brighter = (f"#{colour:06x}" for colour in used)
    remark = f"The labels have two colours: {darker} is class 0, {brighter} is class 1."
    names = listed.names if listed else TWO_CLASSES
    return _coloured(names, listed, {}), {used[0]: 0, used[1]: 1}, [remark]


def _colours_of_one_file(contents, used, names, ignored):
    """Notes colours that one file alone has: of a smoothed edge, or mistyped."""
    if len(contents) < 3:
        return []
    alone = {}
    for number, (colour, name) in enumerate(zip(used, names)):
        paths = [c.path for c in contents if c.colours is not None and colour in c.colours]
        if len(paths) == 1 and not {name, str(number)} & set(ignored):
            alone.setdefault(paths[0], []).append(name)
    if not alone:
        return []
    listed = [f"{path} ({shortened(colours, 4)})" for path, colours in alone.items()]
    return [
        f"NOTE: colours that one label alone has: {shortened(listed, 4)}. If it is a smoothed edge "
        "or a mistake, correct the label, or list the true colours in classes.txt, which refuses "
        "all others."
    ]


def _no_colours(content):
    """Words that a file holds numbers that are no greys, where others show colours."""
    if content.colours is not None:
        return []
    return [f"{content.path} must show colours as the other labels do. Received: numbers."]


def _unlisted_colours(content, known, listed):
    """Words the first colour of a file that is in no list, with its place."""
    unlisted = set() if content.colours is None else content.colours.keys() - known
    if not unlisted:
        return _no_colours(content)
    pixels = read_label(content.path).colours
    row, column = np.argwhere(np.isin(pixels, list(unlisted)))[0]
    colour = int(pixels[row, column])
    near = min(range(len(listed)), key=lambda n: _distance(listed.colours[n], unpacked(colour)))
    more = f" (and {len(unlisted) - 1} more such colours)" if len(unlisted) > 1 else ""
    return [
        f"{content.path} has the colour #{colour:06x} at row {row}, column {column}{more}, which "
        f"is not in classes.txt; the nearest is {listed.names[near]} "
        f"#{int(packed(listed.colours[near])):06x}. Add it there, or correct the label (smoothed, "
        "scaled or saved with loss?)."
    ]


def _classes_by_number(contents, listed, ignored):
    """Gives classes, {number: class} and remarks."""
    used = sorted(_used_numbers(contents))
    if len(used) == 2 and len(listed or used) == 2 and str(IGNORE) not in ignored:
        lower, upper = used
        remarks = []
        if used != [0, 1]:
            remarks.append(f"The labels have two values: {lower} is class 0, {upper} is class 1.")
        names = listed.names if listed else TWO_CLASSES
        return _coloured(names, listed, {}), {lower: 0, upper: 1}, remarks
    numbers = [number for number in used if number != IGNORE]
    remarks = []
    if numbers == [0, 1] and str(IGNORE) not in ignored:
        remarks += _one_as_highest(contents)
    if listed is None:
        _require_class_numbers(contents, numbers)
        names = tuple(f"class {number}" for number in range(max(numbers, default=-1) + 1))
    else:
        names = listed.names
        raise_if_any(counted([p for c in contents for p in _unlisted_numbers(c, listed, numbers)]))
    if listed is None and len(numbers) > MOST_CLASSES:
        remarks.append(f"NOTE: {len(numbers)} classes: {IS_OBJECTS}.")
    palette = {n: colour for content in contents for n, colour in content.palette.items()}
    classes = _coloured(names, listed, palette)
    return classes, {number: number for number in range(len(names))}, remarks


def _one_as_highest(contents):
    """Notes files whose class 1 may be written as 255, where others have 1."""
    alike = [content.path.name for content in contents if set(content.numbers) == {0, IGNORE}]
    if not alike:
        return []
    return [
        f"NOTE: {shortened(alike)} hold {IGNORE}, which is ignored, and no 1, which others hold. "
        f"If {IGNORE} is class 1 there, write 1 in its place, or {IGNORE} in the others."
    ]


def _require_class_numbers(contents, numbers):
    """Refuses numbers that cannot be classes: too large, too many, or with wide gaps."""
    largest = max(contents, key=lambda content: max(content.numbers.keys() - {IGNORE}, default=0))
    shown = shortened(numbers)
    place = f"The labels in {largest.path.parent}"
    if numbers and numbers[-1] > LARGEST_CLASS or len(numbers) > MOST_UNLISTED:
        raise UserError(
            f"{place} must hold class numbers from 0. Received: {len(numbers)} values from "
            f"{numbers[0]} to {numbers[-1]}, the largest in {largest.path.name}: {IS_OBJECTS}. If "
            "they are greys (smoothed edges), threshold them. If they are classes, list them in "
            f"classes.txt, one a line (at most {LARGEST_CLASS + 1})."
        )
    if numbers and numbers[-1] + 1 > 2 * len(numbers):
        raise UserError(
            f"{place} must hold class numbers 0, 1, 2, ..., and {IGNORE} for what is ignored. "
            f"Received: {shown}, the largest in {largest.path.name}. Renumber them, or list all "
            f"{numbers[-1] + 1} classes in classes.txt, one a line; {IS_OBJECTS}."
        )


def _unlisted_numbers(content, listed, numbers):
    """Words the numbers of a file that are in no list, with a place."""
    unlisted = sorted(n for n in content.numbers if n >= len(listed) and n != IGNORE)
    if not unlisted:
        return []
    row, column = np.argwhere(read_label(content.path).numbers == unlisted[0])[0]
    advice = f"Add the class to classes.txt, or correct the label; {IS_OBJECTS}."
    if numbers[0] > 0 and numbers[-1] == len(listed):
        advice = (
            "All labels start at 1, and the first line of classes.txt is class 0: add a line for "
            "class 0 in front."
        )
    return [
        f"{content.path} has the number {shortened(unlisted)} at row {row}, column {column}. "
        f"classes.txt lists {len(listed)} classes: expected 0 to {len(listed) - 1}, or {IGNORE} "
        f"for what is ignored. {advice}"
    ]


def _coloured(names, listed, palette):
    """Gives classes the colours of the list, else of the palette, else default ones."""
    if listed is not None and listed.colours is not None:
        return listed
    colours = list(default_colours(len(names)))
    own = {n: unpacked(colour) for n, colour in palette.items() if n < len(names)}
    is_grey = all(red == green == blue for red, green, blue in own.values())
    for number, colour in {} if is_grey else own.items():
        colours[number] = colour
    colours = colours if len(set(colours)) == len(colours) else default_colours(len(names))
    return Classes(tuple(names), tuple(colours))


def _left_out(classes, ignored, used):
    """Numbers the classes anew without the ignored ones -> list with IGNORE for these.

    A class that is ignored by its number must be in `used`, the numbers that label pixels have.
    """
    places, problems = set(), []
    for text in ignored:
        if text in classes.names:
            places.add(classes.names.index(text))
        elif text.isdecimal() and int(text) in used:
            places.add(int(text))
        else:
            problems.append(
                "--ignore must name a class, or a number that label pixels have. Received: "
                f"{text}. The classes are, from 0: {shortened(classes.names, 20)}."
            )
    raise_if_any(problems)
    kept = [place for place in range(len(classes)) if place not in places]
    return [kept.index(p) if p not in places else IGNORE for p in range(len(classes))]


def _distance(first, second):
    return sum((a - b) ** 2 for a, b in zip(first, second))
