"""Sets of fundus photographs as they are given out: what their files are called, and what tests.

DRIVE is no table of names here: it lies in a folder for each half, as data of one's own do. Only
what tells it from the others is.
"""

import re
from pathlib import Path
from typing import NamedTuple

from lib.image_files import natural_key, shortened

DRIVE = "DRIVE"
OPTIONAL = ("2nd_manual",)


class Files(NamedTuple):
    """The files of one kind.

    Attributes:
        folder: the folder that they lie in, within that of the data set; "" for that itself.
        pattern: regular expression of a whole name, whose group is the id; in any case of letters.
        example: a name to show.
    """

    folder: str
    pattern: str
    example: str

    def shown(self, folder):
        """Gives a path with an example's name, for messages."""
        return Path(folder, self.folder, self.example)


class Layout(NamedTuple):
    """A set of photographs.

    Attributes:
        files: {kind: Files}, the kinds being those of prepare_datasets_DRIVE.py: images,
            1st_manual and, where there are such, 2nd_manual and mask.
        first_test: the first number of an id that tests: lower ones train. None where no split is
            in use.
        split: where that split comes from.
    """

    files: dict
    first_test: int | None
    split: str


LAYOUTS = {
    # Hoover et al. 2000: two observers, A. Hoover and V. Kouznetsova; no FOV masks.
    "STARE": Layout(
        {
            "images": Files("stare-images", r"(im\d{4})\.ppm(?:\.gz)?", "im0001.ppm"),
            "1st_manual": Files("labels-ah", r"(im\d{4})\.ah\.ppm(?:\.gz)?", "im0001.ah.ppm"),
            "2nd_manual": Files("labels-vk", r"(im\d{4})\.vk\.ppm(?:\.gz)?", "im0001.vk.ppm"),
        },
        None,
        "none is given out; each image is left out once",
    ),
    # Fraz et al. 2012: both eyes of 14 children, 30 degrees; no FOV masks.
    "CHASE_DB1": Layout(
        {
            "images": Files("", r"(Image_\d\d[LR])\.jpe?g", "Image_01L.jpg"),
            "1st_manual": Files("", r"(Image_\d\d[LR])_1stHO\.png", "Image_01L_1stHO.png"),
            "2nd_manual": Files("", r"(Image_\d\d[LR])_2ndHO\.png", "Image_01L_2ndHO.png"),
        },
        11,
        "the first 20 images train, the last 8 test: the children 11 to 14",
    ),
    # Budai et al. 2013: 15 healthy eyes (h), 15 with diabetic retinopathy (dr), 15 with glaucoma
    # (g), 60 degrees. The split is that of Orlando et al. 2017.
    "HRF": Layout(
        {
            "images": Files("images", r"(\d\d_(?:dr|g|h))\.jpe?g", "01_dr.JPG"),
            "1st_manual": Files("manual1", r"(\d\d_(?:dr|g|h))\.tiff?", "01_dr.tif"),
            "mask": Files("mask", r"(\d\d_(?:dr|g|h))_mask\.tiff?", "01_dr_mask.tif"),
        },
        6,
        "the first 5 images of each kind train (Orlando et al. 2017), the other 30 test",
    ),
}


def find_files(folder, name, has_masks=True):
    """Lists the files of a data set by kind and id.

    Args:
        folder: that of the data set.
        name: one of LAYOUTS.
        has_masks: whether FOV masks are wanted where the layout has such.
    Returns:
        ({kind: {id: path}}, problems). Kinds of OPTIONAL are left out where there are none.
    """
    kinds = LAYOUTS[name].files
    if not has_masks:
        kinds = {kind: files for kind, files in kinds.items() if kind != "mask"}
    if not folder.is_dir():
        expected = ", ".join(str(files.shown("")) for files in kinds.values())
        words = f"The folder {folder} does not exist. Expected there, of {name}: {expected}."
        return {}, [_joined(words, hint(folder, name))]
    found = {kind: _matching(folder, files) for kind, files in kinds.items()}
    if not found["images"]:
        words = f"{folder} holds no photographs of {name}, such as {kinds['images'].shown(folder)}."
        return {}, [_joined(words, hint(folder, name))]
    problems = []
    for kind, files in kinds.items():
        if kind in OPTIONAL and not found[kind]:
            del found[kind]
        elif kind != "images":
            advice = " Or add --no-masks." if kind == "mask" else ""
            place = f"{folder} (like {files.shown('')})"
            words = unpaired(place, folder / kinds["images"].folder, found["images"], found[kind])
            problems += [f"{sentence}{advice}" for sentence in words]
    _tell_others(folder, kinds)
    return found, problems


def unpaired(place, images_place, images, others):
    """Lists images without a partner of another kind, and partners without an image.

    Args:
        place: where the partners lie, for messages.
        images_place: where the images lie, alike.
        images: their ids.
        others: the ids of the partners.
    Returns:
        list of messages.
    """
    missing = [identity for identity in images if identity not in others]
    surplus = [identity for identity in others if identity not in images]
    problems = []
    if missing:
        problems.append(
            f"{place} has {len(others)} files for {len(images)} images. "
            f"Missing for id: {shortened(missing)}."
        )
    if surplus:
        problems.append(
            f"{place} has files without an image in {images_place}, id: {shortened(surplus)}."
        )
    return problems


def testing_ids(name, ids, wanted=None):
    """Chooses the images that test; all others train.

    Args:
        name: one of LAYOUTS.
        ids: of all images.
        wanted: ids that the user names, or "all"; None for the layout's own split.
    Returns:
        (list of ids in their order, problems).
    """
    layout = LAYOUTS[name]
    if wanted is None and layout.first_test is None:
        return [], [
            f"{name} is given out without a split: name what tests, all others train. --test "
            f"{ids[0]} leaves this image out; --test all trains on none."
        ]
    if wanted is None:
        return [one for one in ids if _number(one) >= layout.first_test], []
    if [word.lower() for word in wanted] == ["all"]:
        return list(ids), []
    lower = {one.lower() for one in wanted}
    unknown = [one for one in wanted if one.lower() not in map(str.lower, ids)]
    if unknown:
        return [], [
            f"--test must name images of {name}, or all. Received: {shortened(unknown)}. "
            f"There are: {shortened(ids)}."
        ]
    return [one for one in ids if one.lower() in lower], []


def hint(folder, name):
    """Says which data set lies in a folder, in one of its folders or around it; "" for none.

    Args:
        folder: the one that the user named; it need not exist.
        name: the layout that was expected there, which is not said of the folder itself.
    """
    inner = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for place in (folder, *inner, folder.parent):
        for known in (*LAYOUTS, DRIVE):
            if (place, known) != (folder, name) and _looks_like(place, known):
                return (
                    f"{place} looks like {known}: give it as the argument, with --layout {known}."
                )
    return ""


def _looks_like(folder, name):
    """Tells whether a folder holds photographs of a data set at their places."""
    try:
        if name == DRIVE:
            return any((folder / half / "images").is_dir() for half in ("training", "test"))
        return bool(_matching(folder, LAYOUTS[name].files["images"]))
    except OSError:  # somebody else's folder, which may not be looked into
        return False


def _matching(folder, files):
    """Lists the files of one kind: {id: path}, by id."""
    place = folder / files.folder
    if not place.is_dir():
        return {}
    by_id = {}
    # Of im0001.ppm and im0001.ppm.gz, which was unpacked beside it, the former.
    for path in sorted(place.iterdir()):
        match = re.fullmatch(files.pattern, path.name, re.IGNORECASE)
        if match:
            by_id.setdefault(match[1], path)
    return dict(sorted(by_id.items(), key=lambda item: natural_key(item[0])))


def _tell_others(folder, kinds):
    """Says what is passed over in the folders of the data set."""
    for place in dict.fromkeys(folder / files.folder for files in kinds.values()):
        patterns = [files.pattern for files in kinds.values() if folder / files.folder == place]
        visible = (path for path in place.iterdir() if path.name[0] != "." and path.is_file())
        others = sorted(
            path.name
            for path in visible
            if not any(re.fullmatch(pattern, path.name, re.IGNORECASE) for pattern in patterns)
        )
        if others:
            print(f"{place}: passed over {shortened(others)}.")


def _number(identity):
    return int(re.search(r"\d+", identity)[0])


def _joined(*sentences):
    return " ".join(filter(None, sentences))
