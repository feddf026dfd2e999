"""The only reader of configuration files: typed, complete, all errors at once.

A configuration is one experiment. Section and key names are those of retina-unet; keys that it did
not have carry defaults that keep its behaviour. A section `[training settings]` becomes the
attribute `training_settings`, and its keys become attributes of that, spelt as in the file.
"""

import configparser
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from lib.elastic_deformation import get_augmentation
from lib.errors import UserError, raise_if_any
from lib.overlap_tile import output_size, tile_starts

REQUIRED = object()
# Names that would put an experiment's files among the project's own.
RESERVED_NAMES = ("src", "lib", "tests", "docs", "benchmarks", "DRIVE", "ISBI", "phantom")
# Files carry the name and more; file systems allow 255 bytes.
LONGEST_NAME = 150
_NAME = re.compile(r"[^/\\:*?\"<>|\x00-\x1f]+")


@dataclass(frozen=True)
class Key:
    """One key: where it stands, how its text becomes a value, and what it is when left out.

    Args:
        section: name of the section, without brackets.
        name: name of the key.
        parse: text -> value; raises ValueError with what was expected ("a whole number ...").
        default: the value where the key is left out; REQUIRED where it may not be.
    """

    section: str
    name: str
    parse: object
    default: object = REQUIRED


# ---------------------------------------------------------------- what a value may be


def integer(minimum, maximum=None):
    """Gives a parser of whole numbers between minimum and maximum, both allowed."""
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"a whole number {bounds}")
        return value

    return parse


def integer_or_all(text):
    """Parses a whole number of at least 1, or the word all."""
    try:
        return "all" if text.lower() == "all" else integer(1)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or all") from None


def real(minimum, maximum=float("inf"), *, above=False):
    """Gives a parser of numbers from minimum (with above: greater than it) to maximum."""
    expected = f"a number {'above' if above else 'of at least'} {minimum:g}"
    expected += "" if maximum == float("inf") else f" and at most {maximum:g}"

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            raise ValueError(expected) from None
        is_low = value <= minimum if above else value < minimum
        if is_low or not value <= maximum or value == float("inf"):
            raise ValueError(expected)
        return value

    return parse


def boolean(text):
    """Parses True or False, in any case; also yes, no, on, off, 1 and 0, as configparser does."""
    value = configparser.ConfigParser.BOOLEAN_STATES.get(text.lower())
    if value is None:
        raise ValueError("True or False")
    return value


def choice(*allowed):
    """Gives a parser that takes one of the allowed words, in any case."""

    def parse(text):
        if text.lower() not in allowed:
            raise ValueError(" or ".join(allowed))
        return text.lower()

    return parse


def text(value):
    """Takes any text but an empty one."""
    if not value:
        raise ValueError("some text; it is empty")
    return value


def path_or_none(value):
    """Takes the path of a file, or the word none."""
    return None if value.lower() == "none" else text(value)


def experiment_name(value):
    """Takes a name that can be a folder of its own beside the scripts."""
    if value.startswith(".") or not _NAME.fullmatch(value):
        raise ValueError("the name of a folder, without dots in front, slashes or signs like : *")
    if len(value.encode()) > LONGEST_NAME:
        raise ValueError(f"a name of at most {LONGEST_NAME} letters")
    if value in RESERVED_NAMES:
        raise ValueError(f"none of the project's own folders ({', '.join(RESERVED_NAMES)})")
    return value


def multiple_of_4(value):
    """Takes a patch side that survives two poolings."""
    size = integer(4)(value)
    if size % 4:
        raise ValueError(
            f"a multiple of 4, because the network halves it twice; "
            f"{size // 4 * 4} or {size // 4 * 4 + 4} would do"
        )
    return size


# ---------------------------------------------------------------- the keys

EXPERIMENT_KEYS = (
    Key("experiment name", "name", experiment_name),
    Key("experiment name", "task", choice("retina", "membrane"), "retina"),
)

SHARED_TRAINING_KEYS = (
    Key("training settings", "N_epochs", integer(1)),
    Key("training settings", "nohup", boolean),
    Key("training settings", "seed", integer(0, 2**32 - 1), 0),
    Key("training settings", "optimizer", choice("sgd", "adam"), "sgd"),
    Key("training settings", "learning_rate", real(0, above=True), 0.01),
    Key("training settings", "learning_rate_decay", choice("none", "cosine"), "none"),
    Key("training settings", "initial_weights", path_or_none, None),
    Key("training settings", "mixed_precision", boolean, False),
    Key("training settings", "tensorboard", boolean, False),
    Key("training settings", "distribute", choice("none", "auto"), "none"),
    Key("training settings", "steps_per_execution", integer(1), 1),
)

SHARED_TESTING_KEYS = (
    Key("testing settings", "best_last", choice("best", "last")),
    Key("testing settings", "N_group_visual", integer(1)),
    Key("testing settings", "nohup", boolean),
)


def augmentation_keys(*, elastic_sigma, rotation_degrees, flip, brightness, contrast):
    """Gives the keys of lib.elastic_deformation.Augmentation with the defaults of a task."""
    return tuple(
        Key("training settings", name, parse, default)
        for name, parse, default in (
            ("elastic_sigma", real(0), elastic_sigma),
            ("rotation_degrees", real(0, 180), rotation_degrees),
            ("quarter_turns", boolean, False),
            ("flip", boolean, flip),
            ("zoom", real(1, 4), 1.0),
            ("shift", real(0), 0.0),
            ("brightness", real(0, 1), brightness),
            ("contrast", real(0, 1), contrast),
            ("noise", real(0, 1), 0.0),
        )
    )


RETINA_KEYS = (
    Key("data paths", "path_local", text),
    Key("data paths", "train_imgs_original", text),
    Key("data paths", "train_groundTruth", text),
    Key("data paths", "train_border_masks", text),
    Key("data paths", "test_imgs_original", text),
    Key("data paths", "test_groundTruth", text),
    Key("data paths", "test_border_masks", text),
    *EXPERIMENT_KEYS,
    Key("data attributes", "patch_height", multiple_of_4),
    Key("data attributes", "patch_width", multiple_of_4),
    Key("data attributes", "equalization", choice("clahe", "histogram"), "clahe"),
    Key("training settings", "N_subimgs", integer(1, 100_000_000)),
    Key("training settings", "validation_split", real(0, 0.9), 0.1),
    Key("training settings", "inside_FOV", boolean),
    Key("training settings", "batch_size", integer(1)),
    *SHARED_TRAINING_KEYS,
    Key("training settings", "momentum", real(0, 0.9999), 0.0),
    Key("training settings", "network", choice("unet", "gnet"), "unet"),
    Key("training settings", "output_activation", choice("relu", "linear"), "relu"),
    Key("training settings", "dropout", real(0, 0.9), 0.2),
    *augmentation_keys(
        elastic_sigma=0.0, rotation_degrees=0.0, flip=False, brightness=0.0, contrast=0.0
    ),
    *SHARED_TESTING_KEYS,
    Key("testing settings", "full_images_to_test", integer_or_all),
    Key("testing settings", "average_mode", boolean),
    Key("testing settings", "stride_height", integer(1)),
    Key("testing settings", "stride_width", integer(1)),
    Key("testing settings", "inference", choice("patches", "full_image"), "patches"),
    Key("testing settings", "inside_FOV", boolean, False),
    Key("testing settings", "average_flips", boolean, False),
    Key("testing settings", "images", choice("test", "validation", "training"), "test"),
    Key("testing settings", "threshold", real(0, 1), 0.5),
    Key("testing settings", "fov_width", integer(0), 0),
)

MEMBRANE_KEYS = (
    Key("data paths", "path_local", text),
    Key("data paths", "train_imgs_original", text),
    Key("data paths", "train_groundTruth", text),
    Key("data paths", "train_weight_maps", text),
    Key("data paths", "test_imgs_original", text),
    *EXPERIMENT_KEYS,
    Key("data attributes", "tile_size", integer(1)),
    Key("training settings", "N_tiles", integer(1, 100_000_000)),
    Key("training settings", "validation_images", integer(0), 5),
    Key("training settings", "batch_size", integer(1), 1),
    *SHARED_TRAINING_KEYS,
    Key("training settings", "momentum", real(0, 0.9999), 0.99),
    Key("training settings", "base_filters", integer(1), 64),
    Key("training settings", "depth", integer(1, 8), 4),
    Key("training settings", "variant", choice("paper", "release"), "paper"),
    *augmentation_keys(
        elastic_sigma=10.0, rotation_degrees=180.0, flip=True, brightness=0.05, contrast=0.2
    ),
    *SHARED_TESTING_KEYS,
    Key("testing settings", "tile_size", integer(1), 572),
    Key("testing settings", "symmetries", boolean, False),
    Key("testing settings", "labelled_slices", choice("held_out", "all", "none"), "held_out"),
)

KEYS = {"retina": RETINA_KEYS, "membrane": MEMBRANE_KEYS}
# The commented configuration of each task, at the top of the project.
PATTERNS = {"retina": "configuration.txt", "membrane": "configuration_ISBI.txt"}


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Configuration:
    """A configuration that was read and checked.

    Args:
        path: the file it came from.
        task: "retina" or "membrane".
        sections: {attribute of the section: SimpleNamespace of its keys}.
    """

    path: Path
    task: str
    sections: dict

    def __getattr__(self, section):
        try:
            return self.__dict__["sections"][section]
        except KeyError:
            raise AttributeError(section) from None

    def as_dict(self):
        """Gives plain nested dictionaries, as stored beside results."""
        return {name: dict(vars(section)) for name, section in self.sections.items()}

    def default(self, section, name):
        """Gives what a key is when it is left out; None where it may not be, or is unknown.

        Args:
            section: as an attribute, training_settings.
            name: of the key.
        """
        for key in KEYS[self.task]:
            if (key.section.replace(" ", "_"), key.name) == (section, name):
                return None if key.default is REQUIRED else key.default
        return None

    def problem(self, section, key, expected, advice=""):
        """Words a problem that only the data showed, in the style of all others."""
        received = getattr(self.sections[section.replace(" ", "_")], key)
        message = f"{self.path}: [{section}] {key} must be {expected}. Received: {received}."
        return f"{message} {advice}".rstrip()


def read_configuration(path, task=None):
    """Reads a configuration file and checks every key.

    Args:
        path: the file.
        task: "retina" or "membrane" where only that one will do; None for either.
    Returns:
        Configuration with a value for every key of its task.
    Raises:
        UserError: with all problems: unreadable file, duplicate, unknown or missing keys, values
            out of range, strides that do not fit the patch.
    """
    path = Path(path)
    parser = _parse(path)
    task = _task(path, parser, task)
    problems = _unknown_names(path, parser, KEYS[task])
    sections = {}
    for key in KEYS[task]:
        values = sections.setdefault(key.section.replace(" ", "_"), SimpleNamespace())
        try:
            setattr(values, key.name, _value(parser, key, task))
        except ValueError as error:
            problems.append(f"{path}: [{key.section}] {key.name} {error}")
    raise_if_any(problems)
    configuration = Configuration(path, task, sections)
    raise_if_any(CROSS_CHECKS[task](configuration))
    return configuration


def _parse(path):
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(
            f"Configuration file {path} {what}. Looked in {Path.cwd()}. "
            "Start the script in the project's folder, or give the file as its argument."
        )
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except configparser.DuplicateOptionError as error:
        raise UserError(
            f"{path}, line {error.lineno}: [{error.section}] {_as_written(path, error.option)} "
            "stands there twice. Keep one of the two."
        ) from None
    except configparser.DuplicateSectionError as error:
        raise UserError(
            f"{path}, line {error.lineno}: the section [{error.section}] stands there twice. "
            "Put its keys together under one heading."
        ) from None
    except configparser.Error as error:
        raise UserError(
            f"{path} cannot be read as sections in [brackets] with lines `key = value`: {error}"
        ) from None
    return parser


def _task(path, parser, expected):
    parse = choice(*([expected] if expected else KEYS))
    value = parser.get("experiment name", "task", fallback="retina")
    try:
        return parse(value)
    except ValueError as error:
        raise UserError(
            f"{path}: [experiment name] task must be {error}. Received: {value}."
        ) from None


def _unknown_names(path, parser, keys):
    problems = []
    known = {}
    for key in keys:
        known.setdefault(key.section, []).append(key.name)
    for section in parser.sections():
        if section not in known:
            problems.append(f"{path}: unknown section [{section}].{_nearest(section, known)}")
            continue
        lower = [name.lower() for name in known[section]]
        problems += [
            f"{path}: [{section}] has an unknown key {_as_written(path, name)}."
            f"{_nearest(name, known[section])}"
            for name in parser.options(section)
            if name not in lower
        ]
    return problems


def _as_written(path, name):
    """Gives a key as the file spells it; configparser knows it in lower case only."""
    text = path.read_text(encoding="utf-8-sig")
    written = re.search(rf"^\s*({re.escape(name)})\s*[=:]", text, re.IGNORECASE | re.MULTILINE)
    return written[1] if written else name


def _nearest(name, known):
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return f" The nearest known name is {by_lower[matches[0]]}." if matches else ""


def _value(parser, key, task):
    if not parser.has_option(key.section, key.name):
        if key.default is REQUIRED:
            raise ValueError(f"is missing. Add it, or take {PATTERNS[task]} as a pattern.")
        return key.default
    received = parser.get(key.section, key.name).strip()
    if "\n" in received:  # configparser joins an indented line to the value above it
        first, below = received.split("\n", 1)
        raise ValueError(
            f"is followed by an indented line. Received: {first}, then {below.strip()}. "
            "Begin every key at the left margin."
        )
    try:
        return key.parse(received)
    except ValueError as error:
        raise ValueError(f"must be {error}. Received: {received or 'nothing'}.") from None


# ---------------------------------------------------------------- checks across keys


def _check_retina(configuration):
    """Lists what does not go together: strides, patches to be turned, patches to be left out."""
    problems = _best_of_nothing(configuration, "validation_split")
    attributes = configuration.data_attributes
    is_square = attributes.patch_height == attributes.patch_width
    if get_augmentation(configuration.training_settings) and not is_square:
        problems.append(
            configuration.problem(
                "data attributes",
                "patch_width",
                f"patch_height = {attributes.patch_height} where patches are turned, deformed or "
                "varied",
                "Or switch off elastic_sigma, rotation_degrees, quarter_turns, flip, zoom, shift, "
                "brightness, contrast and noise in [training settings].",
            )
        )
    testing = configuration.testing_settings
    if testing.inside_FOV and testing.inference != "patches":
        problems.append(
            configuration.problem(
                "testing settings",
                "inside_FOV",
                "False with inference = full_image, which leaves no patch out",
            )
        )
    for side in ("height", "width"):
        patch = getattr(configuration.data_attributes, f"patch_{side}")
        stride = getattr(configuration.testing_settings, f"stride_{side}")
        if stride > patch:
            problems.append(
                configuration.problem(
                    "testing settings",
                    f"stride_{side}",
                    f"at most patch_{side} = {patch}, else pixels between patches are never seen",
                    "The original uses 5.",
                )
            )
    return problems


def _check_membrane(configuration):
    """Lists tile sizes that do not fit the depth of the network, and best weights of nothing."""
    depth = configuration.training_settings.depth
    problems = _best_of_nothing(configuration, "validation_images")
    for section in ("data attributes", "testing settings"):
        size = getattr(configuration, section.replace(" ", "_")).tile_size
        try:
            tile_starts(size, output_size(size, depth), depth)
        except ValueError as error:
            problems.append(f"{configuration.path}: [{section}] tile_size: {error}")
    return problems


def _best_of_nothing(configuration, key):
    """Lists the problem that the best weights are asked for where `key` says none validate."""
    validates = getattr(configuration.training_settings, key) > 0
    if validates or configuration.testing_settings.best_last == "last":
        return []
    expected = f"last where {key} = 0, because nothing tells which epoch was best"
    return [configuration.problem("testing settings", "best_last", expected)]


CROSS_CHECKS = {"retina": _check_retina, "membrane": _check_membrane}
