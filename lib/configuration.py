"""The only reader of configuration files: typed, complete, all errors at once.

A configuration is one experiment. Section and key names are those of retina-unet; keys that it did
not have carry defaults that keep its behaviour. A section `[training settings]` becomes the
attribute `training_settings`, and its keys become attributes of that, spelt as in the file. Which
keys there are is the task's own affair: the tasks are handed in.
"""

import ast
import configparser
import difflib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from lib.errors import UserError, raise_if_any

REQUIRED = object()
# What a key decides. Weights are tested only with the values of NETWORK that they were trained
# with, and on held-out images only with those of SPLIT; a training resumes only with those of
# TRAINING besides; FREE keys may change at any time.
NETWORK, SPLIT, TRAINING, FREE = "network", "split", "training", "free"
# Folders of the project in which no experiment may lie, in any spelling: file systems of Windows
# and macOS do not tell `src` from `Src`.
PROJECT_FOLDERS = ("src", "lib", "tests", "docs", "benchmarks", "drive", "isbi", "ctc")
# Folders that hold experiments and are none themselves.
SHELVES = ("pretrained", "results", "demo")
# The first bytes of an HDF5 file.
HDF5 = b"\x89HDF\r\n\x1a\n"
# Of so many unknown keys or more is told which other task has them.
FEWEST_OF_ANOTHER_TASK = 3
# Files carry the name and more; file systems allow 255 bytes.
LONGEST_NAME = 150
# The names of lib.encoders.SOURCES, which are not to be had without Keras.
ENCODERS = (
    "vgg16",
    "resnet50v2",
    "mobilenetv2",
    "densenet121",
    "efficientnetv2b0",
    "efficientnet_lite0",
)
_NAME = re.compile(r"[^/\\:*?\"“”‘’<>|\x00-\x1f]+")
_INLINE_COMMENT = re.compile(r"\s+[#;].*")
# A list with another sign than the comma is none with a comment.
_NUMBERS_BEHIND = re.compile(r"\s;[\s;,.+-]*\d[\s\d;,.+-]*$")
# A name may have number signs ("eyes #2"). A comment behind it stands after two spaces or more, or
# has a space on both sides of its sign.
_COMMENT_BEHIND_NAME = re.compile(r"\s{2,}[#;]|\s[#;]\s")


@dataclass(frozen=True)
class Key:
    """One key: where it stands, how its text becomes a value, and what it is when left out.

    Args:
        section: name of the section, without brackets.
        name: name of the key.
        parse: text -> value; raises ValueError with what was expected ("a whole number ...").
        default: the value where the key is left out; REQUIRED where it may not be.
        role: NETWORK, SPLIT, TRAINING or FREE.
        old_names: {name that the key had before: parser of its values}.
        old_section: section in which the key stood before; read there too.
    """

    section: str
    name: str
    parse: object
    default: object = REQUIRED
    role: str = FREE
    old_names: dict = field(default_factory=dict)
    old_section: str = ""

    @property
    def attribute(self):
        """The section as an attribute: training_settings."""
        return _attribute(self.section)


def _attribute(section):
    return section.replace(" ", "_")


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


def real(minimum, maximum=float("inf"), *, above=False, unit=""):
    """Gives a parser of numbers from minimum (with above: greater than it) to maximum."""
    what = f"a number of {unit}" if unit else "a number"
    expected = f"{what} {'above' if above else 'of at least'} {minimum:g}"
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


def number_or_none(parse):
    """Gives a parser of the numbers that another one takes, or of the word none."""

    def parse_or_none(text):
        try:
            return None if text.lower() == "none" else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None

    return parse_or_none


def one_for_each(parse, example):
    """Gives a parser of values, separated by commas, each as another one takes it."""

    def parse_each(text):
        try:
            return tuple(parse(part.strip()) for part in text.split(","))
        except ValueError as error:
            raise ValueError(f"{error}, or several of them: {example}") from None

    return parse_each


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


def share_or_number(text):
    """Parses a share from 0 to 0.9, or a whole number of images from 1: 0.1, or 5."""
    for parse in (real(0, 0.9), integer(1)):
        try:
            return parse(text)
        except ValueError:
            continue
    raise ValueError("a share from 0 to 0.9, or a whole number of images from 1")


def mirroring(text):
    """Parses along which axes is mirrored: True (both), False, or horizontal (left-right)."""
    if text.lower() == "horizontal":
        return "horizontal"
    try:
        return boolean(text)
    except ValueError:
        raise ValueError("True, False or horizontal (left-right only)") from None


def orientations(text):
    """Parses over how many orientations is averaged: 1, 2, 4 or 8."""
    if text in ("1", "2", "4", "8"):
        return int(text)
    try:
        return {False: 1, "horizontal": 2, True: 4}[mirroring(text)]
    except ValueError:
        raise ValueError(
            "False (1), horizontal (2: and mirrored left-right), True (4 mirrorings) or 8 (and "
            "turned by 90 degrees)"
        ) from None


def eight_orientations(text):
    """Parses True, for the eight symmetries of the square, or False."""
    return 8 if boolean(text) else 1


def text(value):
    """Takes any text but an empty one."""
    if not value:
        raise ValueError("some text; it is empty")
    return value


def path(value):
    """Takes a path; quotes around it are removed, ~ and $VARIABLES are expanded."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return os.path.expandvars(os.path.expanduser(text(value)))


def path_or_none(value):
    """Takes the path of a file, or the word none."""
    return None if value.lower() == "none" else path(value)


def experiment_name(value):
    """Takes a folder for an experiment: a name, or a path of folders such as results/eyes."""
    name = _COMMENT_BEHIND_NAME.split(value, maxsplit=1)[0]
    parts = name.rstrip("/").split("/")
    if parts[0] == "." and len(parts) > 1:
        parts = parts[1:]
    if any(part.startswith(".") or not _NAME.fullmatch(part) for part in parts):
        raise ValueError(
            "the name of a folder, or folders in each other (results/eyes), below the current one; "
            "without / or dots in front, quotes, or signs like : *"
        )
    if len(parts[-1].encode()) > LONGEST_NAME:
        raise ValueError(f"a name of at most {LONGEST_NAME} letters")
    first = parts[0].lower()
    if first in PROJECT_FOLDERS or (first in SHELVES and len(parts) == 1):
        raise ValueError(
            f"none of the project's own folders ({', '.join(PROJECT_FOLDERS)}; within "
            f"{', '.join(SHELVES)} it may lie)"
        )
    return "/".join(parts)


def multiple_of_4(value):
    """Takes a patch side that survives two poolings."""
    size = integer(4)(value)
    if size % 4:
        raise ValueError(
            f"a multiple of 4, because the network halves it twice; "
            f"{size // 4 * 4} or {size // 4 * 4 + 4} would do"
        )
    return size


def with_defaults(keys, **defaults):
    """Gives keys with other defaults, by their names; those of a task stand in its template."""
    return tuple(replace(key, default=defaults.get(key.name, key.default)) for key in keys)


# ---------------------------------------------------------------- the keys that all tasks share


EXPERIMENT_KEYS = (
    Key("experiment name", "name", experiment_name),
    Key("experiment name", "task", text, ""),
)


def shared_training_keys(*metrics):
    """Gives the keys of a training, which all tasks share.

    Args:
        metrics: names of what may choose the best weights, the default first, as lib.history knows
            them.
    """
    return (
        Key("training settings", "N_epochs", integer(1)),
        Key("training settings", "nohup", boolean, False),
        Key("training settings", "seed", integer(0, 2**32 - 1), 0, TRAINING),
        Key("training settings", "optimizer", choice("sgd", "adam", "adamw"), "sgd", TRAINING),
        Key("training settings", "weight_decay", real(0, 1), 0.004, TRAINING),
        Key("training settings", "learning_rate", real(0, above=True), 0.01, TRAINING),
        Key(
            "training settings",
            "learning_rate_decay",
            choice("none", "cosine", "plateau"),
            "none",
            TRAINING,
        ),
        Key("training settings", "plateau_factor", real(0, 0.99, above=True), 0.25, TRAINING),
        Key("training settings", "plateau_patience", integer(1), 10, TRAINING),
        Key("training settings", "early_stopping", integer(0), 0),
        Key("training settings", "best_by", choice(*metrics), metrics[0], TRAINING),
        Key("training settings", "weight_averaging", real(0, 0.9999), 0.0, TRAINING),
        Key("training settings", "initial_weights", path_or_none, None),
        Key("training settings", "mixed_precision", boolean, False, TRAINING),
        Key("training settings", "tensorboard", boolean, False),
        Key("training settings", "distribute", choice("none", "auto"), "none"),
        Key("training settings", "steps_per_execution", integer(1), 1),
        Key(
            "training settings",
            "data_format",
            choice("auto", "channels_first", "channels_last"),
            "auto",
        ),
        Key("training settings", "saving_interval", real(0, above=True, unit="seconds"), 300.0),
        Key("training settings", "time_limit", real(0, unit="hours"), 0.0),
    )


TRAINING_KEYS = shared_training_keys("val_loss", "val_accuracy")
DROPOUT_KIND = Key(
    "training settings", "dropout_kind", choice("plain", "spatial"), "plain", TRAINING
)
# The names of lib.losses.LOSSES.
LOSS_KEYS = (
    Key(
        "training settings",
        "loss",
        choice("cross_entropy", "dice", "dice_cross_entropy"),
        "cross_entropy",
        TRAINING,
    ),
    Key("training settings", "cross_entropy_weight", real(0), 0.8, TRAINING),
    Key("training settings", "dice_weight", real(0), 1.0, TRAINING),
)

TESTING_KEYS = (
    Key("testing settings", "best_last", choice("best", "last"), "best"),
    Key("testing settings", "N_group_visual", integer(1), 1),
    Key("testing settings", "nohup", boolean, False),
    Key("testing settings", "skip_order", choice("auto", "up_first", "skip_first"), "auto"),
)


def data_keys(**names):
    """Gives the keys of [data paths]: path_local, and files by key and default name."""
    files = tuple(
        Key("data paths", key, path, name, TRAINING if key.startswith("train_") else FREE)
        for key, name in names.items()
    )
    return (Key("data paths", "path_local", path), *files)


def augmentation_keys(*, elastic_sigma, rotation_degrees, flip, brightness, contrast, colour=False):
    """Gives the keys of lib.elastic_deformation.Augmentation with the defaults of a task.

    colour: whether its images may have colours, whose hue is a key then.
    """
    return tuple(
        Key("training settings", name, parse, default, TRAINING)
        for name, parse, default in (
            ("elastic_sigma", real(0), elastic_sigma),
            ("rotation_degrees", real(0, 180), rotation_degrees),
            ("shear", real(0, 60), 0.0),
            ("quarter_turns", boolean, False),
            ("flip", mirroring, flip),
            ("zoom", real(1, 4), 1.0),
            ("shift", real(0), 0.0),
            ("brightness", real(0, 1), brightness),
            ("contrast", real(0, 1), contrast),
            ("gamma", real(0, 4), 0.0),
            ("noise", real(0, 1), 0.0),
            ("cutout", real(0, 0.9), 0.0),
            *((("hue", real(0, 180), 0.0),) if colour else ()),
        )
    )


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Configuration:
    """A configuration that was read and checked.

    Args:
        path: the file it came from.
        task: the task, with name, template, keys and check (src.tasks.Task).
        sections: {attribute of the section: SimpleNamespace of its keys}.
    """

    path: Path
    task: object
    sections: dict

    def __getattr__(self, section):
        try:
            return self.__dict__["sections"][section]
        except KeyError:
            raise AttributeError(section) from None

    def as_dict(self):
        """Gives plain nested dictionaries, as stored beside results."""
        return {name: dict(vars(section)) for name, section in self.sections.items()}

    def value(self, key):
        """Gives the value of a Key."""
        return getattr(self.sections[key.attribute], key.name)

    def with_values(self, section, **values):
        """Gives a copy with other values in a section, named as an attribute."""
        changed = SimpleNamespace(**{**vars(self.sections[section]), **values})
        return replace(self, sections={**self.sections, section: changed})

    def problem(self, section, name, expected, advice=""):
        """Words a problem that only the data showed, in the style of all others."""
        received = getattr(self.sections[_attribute(section)], name)
        message = f"{self.path}: [{section}] {name} must be {expected}. Received: {received}."
        return f"{message} {advice}".rstrip()


def read_configuration(file, tasks, only=None):
    """Reads a configuration file and checks every key.

    Args:
        file: the file.
        tasks: {name: task} with keys, check(configuration) -> problems, and template, the commented
            configuration of the task; the first is meant where the file names none.
        only: name of the one task that will do; None for any.
    Returns:
        Configuration with a value for every key of its task.
    Raises:
        UserError: with all problems: unreadable file, duplicate, unknown or missing keys, values
            out of range, values that do not fit each other.
    """
    file = Path(file)
    parser = _parse(file)
    default = next(iter(tasks))
    if not parser.sections():
        raise UserError(
            f"{file} is empty: it has no section such as [data paths]. Begin with a copy of "
            f"{tasks[only or default].template}, which has all keys."
        )
    task = tasks[_task_name(file, parser, [only] if only else list(tasks), default)]
    missing = _missing_sections(parser, task.keys)
    problems = _unknown_names(file, parser, task, tasks, missing)
    sections = {}
    for key in task.keys:
        values = sections.setdefault(key.attribute, SimpleNamespace())
        try:
            setattr(values, key.name, _value(parser, key, task))
        except ValueError as error:
            if key.section not in missing:
                problems.append(f"{file}: [{key.section}] {error}")
    raise_if_any(problems)
    sections["experiment_name"].task = task.name
    configuration = Configuration(file, task, sections)
    raise_if_any(task.check(configuration))
    return configuration


def _parse(file):
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise UserError(
            f"Configuration file {file.absolute()} {what}. Start the script in the project's "
            "folder, or give the file as its argument."
        )
    # No section gives its keys to all others: [DEFAULT] is as unknown as any.
    parser = configparser.ConfigParser(interpolation=None, default_section=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8-sig"), source=str(file))
    except UnicodeDecodeError as error:
        if error.object.startswith(HDF5):
            raise UserError(
                f"{file} is an HDF5 file, as weights and data are. Give the configuration, or the "
                "experiment's folder."
            ) from None
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{file} must be a text file in UTF-8. Received: another encoding, in line {line}. "
            "Save it as UTF-8, or write without accents."
        ) from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from None
    except configparser.DuplicateOptionError as error:
        raise UserError(
            f"{file}, line {error.lineno}: [{error.section}] {_as_written(file, error.option)} "
            "stands there twice. Keep one of the two; or, if they belong to two sections, write "
            "the line of the second ([testing settings]) above its keys."
        ) from None
    except configparser.DuplicateSectionError as error:
        raise UserError(
            f"{file}, line {error.lineno}: the section [{error.section}] stands there twice. "
            "Put its keys together under one heading."
        ) from None
    except configparser.MissingSectionHeaderError as error:
        raise UserError(
            f"{file} must be plain text with sections like [data paths], each above its keys. "
            f"Received in line {error.lineno}, above the first section: {error.line.strip()[:60]}. "
            "Write the section's line above it; if a word processor wrote the file, save it as "
            "plain text (UTF-8)."
        ) from None
    except configparser.ParsingError as error:
        number, line = error.errors[0]
        raise UserError(
            f"{file}, line {number}, must be `key = value`, a [section], or a comment that begins "
            f"with #. Received: {ast.literal_eval(line).strip()[:60]}."
        ) from None
    return parser


def _task_name(file, parser, allowed, default):
    # Also where the line [experiment name] is missing, and the key stands in the section above.
    sections = ("experiment name", *parser.sections())
    given = [parser.get(name, "task") for name in sections if parser.has_option(name, "task")]
    value = _INLINE_COMMENT.sub("", given[0] if given else default)
    try:
        return choice(*allowed)(value)
    except ValueError as error:
        raise UserError(
            f"{file}: [experiment name] task must be {error}. Received: {value}."
        ) from None


def _known_names(keys):
    """Gives {section: names of its keys}, also as they were before."""
    known = {}
    for key in keys:
        for section in filter(None, (key.section, key.old_section)):
            known.setdefault(section, []).extend([key.name, *key.old_names])
    return known


def _lower(names):
    return {name.lower() for name in names}


def _unknown_keys(parser, known):
    """Lists (section, name) of the unknown keys in sections that are known."""
    return [
        (section, name)
        for section in parser.sections()
        for name in parser.options(section)
        if section in known and name not in _lower(known[section])
    ]


def _missing_sections(parser, keys):
    """Lists sections that the file lacks though it must have them, or has their keys elsewhere."""
    known = _known_names(keys)
    required = {key.section for key in keys if key.default is REQUIRED}
    misplaced = {name for _, name in _unknown_keys(parser, known)}
    return [
        section
        for section in known
        if not parser.has_section(section)
        and (section in required or misplaced & _lower(known[section]))
    ]


def _unknown_names(file, parser, task, tasks, missing):
    """Lists missing sections, then unknown ones and unknown keys that do not follow from them."""
    known = _known_names(task.keys)
    unknown = [section for section in parser.sections() if section not in known]
    problems = [
        f"{file}: the line [{section}] is missing. Write it above the keys of that section, as in "
        f"{task.template}."
        for section in missing
        if not any(_nearest(name, [section]) for name in unknown)
    ]
    misplaced = {name for section in missing for name in _lower(known[section])}
    keys = [key for key in _unknown_keys(parser, known) if key[1] not in misplaced]
    problems += _keys_of_another_task(file, keys, tasks)
    problems += [f"{file}: unknown section [{name}].{_nearest(name, known)}" for name in unknown]
    return problems + [
        f"{file}: [{section}] has an unknown key {_as_written(file, name)}."
        f"{_nearest(name, known[section])}"
        for section, name in keys
    ]


def _keys_of_another_task(file, unknown, tasks):
    """Words which task has most of the unknown keys (section, name); [] where none has."""
    known = {name: _known_names(task.keys) for name, task in tasks.items()}
    counts = {
        task: sum(name in _lower(of.get(section, ())) for section, name in unknown)
        for task, of in known.items()
    }
    most = max(counts.values())
    if len(unknown) < FEWEST_OF_ANOTHER_TASK or 2 * most <= len(unknown):
        return []
    names = " or ".join(name for name, count in counts.items() if count == most)
    return [
        f"{file}: {most} of the {len(unknown)} unknown keys below are keys of task = {names}. If "
        "that is meant, set [experiment name] task to it."
    ]


def _as_written(file, name):
    """Gives a key as the file spells it; configparser knows it in lower case only."""
    content = file.read_text(encoding="utf-8-sig")
    written = re.search(rf"^\s*({re.escape(name)})\s*[=:]", content, re.IGNORECASE | re.MULTILINE)
    return written[1] if written else name


def _nearest(name, known):
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[matches[0]]}?" if matches else ""


def _value(parser, key, task):
    """Parses a key at its place, or under a name or section of before; raises ValueError."""
    parsers = {key.name: key.parse, **key.old_names}
    sections = filter(None, (key.section, key.old_section))
    places = [(section, name) for section in sections for name in parsers]
    given = [place for place in places if parser.has_option(*place)]
    if len(given) > 1:
        words = [f"[{section}] {name}" for section, name in given]
        raise ValueError(f"{words[0]} and {words[1]} are one key. Keep one of the two.")
    if not given:
        if key.default is REQUIRED:
            raise ValueError(f"{key.name} is missing. {task.template} has all keys as a template.")
        return key.default
    name = given[0][1]
    received = parser.get(*given[0]).strip()
    if "\n" in received:  # configparser joins an indented line to the value above it
        first, below = received.split("\n", 1)
        raise ValueError(
            f"{name} is followed by an indented line. Received: {first}, then {below.strip()}. "
            "Begin every key at the left margin."
        )
    try:
        return _parsed(parsers[name], received)
    except ValueError as error:
        raise ValueError(f"{name} must be {error}. Received: {received or 'nothing'}.") from None


def _parsed(parse, received):
    """Parses a value as written; a comment behind it is no part of a number or a word."""
    try:
        return parse(received)
    except ValueError:
        without = _INLINE_COMMENT.sub("", received)
        if without == received or _NUMBERS_BEHIND.search(received):
            raise
        return parse(without)


def best_of_nothing(configuration):
    """Lists the problem that the best weights are asked for where nothing validates."""
    validates = configuration.training_settings.validation_split > 0
    if validates or configuration.testing_settings.best_last == "last":
        return []
    expected = "last where validation_split = 0, because nothing tells which epoch was best"
    return [configuration.problem("testing settings", "best_last", expected)]
