"""Tests of reading configuration files: defaults, every type, and every error at once."""

from pathlib import Path

import h5py
import pytest

from lib.configuration import FREE, NETWORK, REQUIRED, SPLIT, TRAINING, read_configuration
from lib.errors import UserError
from src.tasks import TASKS
from tests.small_data import write_configuration as write_small

PROJECT = Path(__file__).resolve().parents[1]
RETINA = TASKS["retina"]


def read(path, only=None):
    return read_configuration(path, TASKS, only)


def problems_of(path, only=None):
    """Reads a file that must be refused; gives what was wrong with it."""
    with pytest.raises(UserError) as error:
        read(path, only)
    return error.value.problems


@pytest.fixture
def value_of(tmp_path):
    """A function that writes one key with a value and gives the value that is read."""

    def read_one(key, value, task="retina"):
        configuration = read(write_small(tmp_path, task=task, **{key: value}))
        section, _, name = key.rpartition("__")
        places = [k for k in TASKS[task].keys if name in (k.name, *k.old_names)]
        (place,) = (k for k in places if section in ("", k.attribute, k.old_section))
        return configuration.value(place)

    return read_one


# ---------------------------------------------------------------- what reads


def test_file_with_the_originals_keys_alone_reads_with_defaults(write_configuration):
    configuration = read(write_configuration())
    assert configuration.task is RETINA
    assert configuration.as_dict() == {
        "data_paths": {
            "path_local": "./DRIVE_datasets_training_testing/",
            "train_imgs_original": "DRIVE_dataset_imgs_train.hdf5",
            "train_groundTruth": "DRIVE_dataset_groundTruth_train.hdf5",
            "train_border_masks": "DRIVE_dataset_borderMasks_train.hdf5",
            "test_imgs_original": "DRIVE_dataset_imgs_test.hdf5",
            "test_groundTruth": "DRIVE_dataset_groundTruth_test.hdf5",
            "test_border_masks": "DRIVE_dataset_borderMasks_test.hdf5",
        },
        "experiment_name": {"name": "test", "task": "retina"},
        "data_attributes": {
            "patch_height": 48,
            "patch_width": 48,
            "equalization": "clahe",
            "channels": "grey",
            "fov_width": 0,
            "fov_angle": 45.0,
        },
        "training_settings": {
            "N_subimgs": 190000,
            "validation_split": 0.1,
            "inside_FOV": False,
            "batch_size": 32,
            "N_epochs": 150,
            "nohup": True,
            "seed": 0,
            "initial_weights": None,
            "mixed_precision": False,
            "tensorboard": False,
            "distribute": "none",
            "steps_per_execution": 1,
            "data_format": "auto",
            "saving_interval": 300,
            "time_limit": 0,
            "optimizer": "sgd",
            "weight_decay": 0.004,
            "learning_rate": 0.01,
            "learning_rate_decay": "none",
            "plateau_factor": 0.25,
            "plateau_patience": 10,
            "early_stopping": 0,
            "best_by": "val_loss",
            "weight_averaging": 0,
            "momentum": 0.0,
            "network": "unet",
            "output_activation": "relu",
            "dropout": 0.2,
            "dropout_kind": "plain",
            "loss": "cross_entropy",
            "cross_entropy_weight": 0.8,
            "dice_weight": 1.0,
            "elastic_sigma": 0.0,
            "rotation_degrees": 0.0,
            "shear": 0.0,
            "quarter_turns": False,
            "flip": False,
            "zoom": 1.0,
            "shift": 0.0,
            "brightness": 0.0,
            "contrast": 0.0,
            "gamma": 0.0,
            "noise": 0.0,
            "cutout": 0.0,
        },
        "testing_settings": {
            "best_last": "best",
            "full_images_to_test": 20,
            "N_group_visual": 1,
            "average_mode": True,
            "stride_height": 5,
            "stride_width": 5,
            "nohup": False,
            "skip_order": "auto",
            "inference": "patches",
            "inside_FOV": False,
            "average_flips": 1,
            "camera_scales": (1.0,),
            "camera_flips": None,
            "images": "test",
            "threshold": 0.5,
            "accuracy_threshold": None,
        },
    }


def test_published_configuration_reads_as_it_is(unet_test_data):
    configuration = read(unet_test_data / "orobix_test" / "original_configuration.txt")
    assert configuration.training_settings.N_subimgs == 190000
    assert configuration.testing_settings.stride_width == 5


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_template_names_every_key_and_what_holds_without_it(task):
    path = PROJECT / task.template
    lines = [line.split("=")[0].strip() for line in path.read_text().splitlines() if "=" in line]
    assert {key.name for key in task.keys} <= set(lines)
    configuration = read(path)
    assert configuration.task is task
    defaults = [key for key in task.keys if key.default is not REQUIRED]
    differing = {k.name for k in defaults if configuration.value(k) != k.default}
    # As in the original, though 20 is all of DRIVE and a foreground job needs no log.
    originals = {"full_images_to_test", "nohup"} if task is RETINA else set()
    assert differing - {"task"} == originals


@pytest.mark.parametrize("task", TASKS)
def test_few_keys_have_no_default(tmp_path, task):
    required = {key.name for key in TASKS[task].keys if key.default is REQUIRED}
    sizes = {"patch_height", "patch_width"} if task == "retina" else {"tile_size"}
    assert required == {"path_local", "name", "N_subimgs", "N_epochs"} | sizes
    assert read(write_small(tmp_path, task=task)).task is TASKS[task]


@pytest.mark.parametrize(
    ("task", "role", "names"),
    [
        ("retina", NETWORK, {"channels", "equalization", "network", "output_activation"}),
        ("retina", SPLIT, {"N_subimgs", "validation_split"}),
        ("membrane", NETWORK, {"base_filters", "depth", "variant"}),
        ("membrane", SPLIT, {"validation_split"}),
        ("cells", NETWORK, {"base_filters", "depth", "variant"}),
        ("cells", SPLIT, {"validation_split"}),
    ],
)
def test_roles_say_what_weights_depend_on(task, role, names):
    assert {key.name for key in TASKS[task].keys if key.role == role} == names


@pytest.mark.parametrize("task", TASKS)
def test_what_shapes_no_training_may_change_at_any_time(task):
    roles = {(key.attribute, key.name): key.role for key in TASKS[task].keys}
    testing = {role for (section, _), role in roles.items() if section == "testing_settings"}
    assert testing == {FREE}
    names = "N_epochs nohup initial_weights tensorboard distribute steps_per_execution data_format"
    for name in (*names.split(), "saving_interval", "time_limit"):
        assert roles["training_settings", name] == FREE
    for name in ("seed", "optimizer", "learning_rate", "batch_size", "mixed_precision", "noise"):
        assert roles["training_settings", name] == TRAINING
    images = "images" if task == "segmentation" else "imgs_original"
    assert roles["data_paths", f"train_{images}"] == TRAINING
    assert roles["data_paths", f"test_{images}"] == FREE
    assert roles["data_paths", "path_local"] == FREE


def test_sections_and_keys_are_attributes_and_a_copy_has_other_values(write_configuration):
    configuration = read(write_configuration())
    assert configuration.data_attributes.patch_height == 48
    assert configuration.training_settings.nohup is True
    assert configuration.testing_settings.nohup is False
    assert not hasattr(configuration, "no_such_settings")
    elsewhere = configuration.with_values("data_paths", path_local="./x")
    assert elsewhere.data_paths.path_local == "./x"
    assert elsewhere.data_paths.test_groundTruth == configuration.data_paths.test_groundTruth
    assert configuration.data_paths.path_local == "./DRIVE_datasets_training_testing/"


def test_byte_order_mark_of_windows_editors_is_skipped(write_configuration):
    path = write_configuration()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(path).experiment_name.name == "test"


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        *(("average_mode", word, True) for word in ("True", "true", "yes", "1")),
        *(("average_mode", word, False) for word in ("FALSE", "off")),
        ("full_images_to_test", "All", "all"),
        ("optimizer", "Adam", "adam"),
        ("validation_split", "0.25", 0.25),
        ("validation_split", "2", 2),
        ("average_flips", "False", 1),
        ("average_flips", "True", 4),
        ("average_flips", "1", 1),
        ("average_flips", "4", 4),
        ("average_flips", "8", 8),
        ("camera_scales", "1", (1.0,)),
        ("camera_scales", "0.67, 1,1.33", (0.67, 1.0, 1.33)),
        ("camera_flips", "none", None),
        ("camera_flips", "8", (8,)),
        ("initial_weights", "None", None),
        ("initial_weights", "./pretrained/a b.weights.h5", "./pretrained/a b.weights.h5"),
        # A comment behind a number or a word.
        ("patch_height", "32  # pixels", 32),
        ("best_last", "last ; not best", "last"),
        ("average_flips", "8 # all", 8),
        ("camera_scales", "0.67, 1 ; as in 2015", (0.67, 1.0)),
        # In a path or a name it is what the file system has.
        ("path_local", "./eyes #2/", "./eyes #2/"),
        ("path_local", "./left ;right", "./left ;right"),
        ("name", "eyes #2", "eyes #2"),
        ("name", "eyes # the second", "eyes"),
        ("name", "eyes #2  ;the second", "eyes #2"),
        ("initial_weights", "a #1.weights.h5", "a #1.weights.h5"),
        # As shells write paths.
        ("path_local", '"./my eyes"', "./my eyes"),
        ("path_local", "'./my eyes'", "./my eyes"),
        ("path_local", "~/eyes", "/home/u/eyes"),
        ("path_local", "$HOME/eyes", "/home/u/eyes"),
        ("initial_weights", '"${HOME}/a.weights.h5"', "/home/u/a.weights.h5"),
        # Folders in each other.
        ("name", "results/eyes", "results/eyes"),
        ("name", "./results/eyes/", "results/eyes"),
        ("name", "pretrained/vessels", "pretrained/vessels"),
        ("name", "sources/src", "sources/src"),
    ],
)
def test_value_is_read(value_of, monkeypatch, key, written, value):
    monkeypatch.setenv("HOME", "/home/u")
    assert value_of(key, written) == value
    assert type(value_of(key, written)) is type(value)


@pytest.mark.parametrize(
    ("old", "written", "value"),
    [
        ("N_tiles", "7", ("training_settings", "N_subimgs", 7)),
        ("validation_images", "2", ("training_settings", "validation_split", 2)),
        ("validation_images", "0", ("training_settings", "validation_split", 0)),
        ("symmetries", "True", ("testing_settings", "average_flips", 8)),
        ("symmetries", "False", ("testing_settings", "average_flips", 1)),
    ],
)
def test_names_of_before_are_read(tmp_path, old, written, value):
    section, name, expected = value
    path = write_small(tmp_path, task="membrane", best_last="last")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(name)]
    lines.insert(lines.index(f"[{section.replace('_', ' ')}]") + 1, f"{old} = {written}")
    path.write_text("\n".join(lines))
    assert getattr(read(path).sections[section], name) == expected


def test_section_of_before_is_read(tmp_path):
    path = write_small(tmp_path, testing_settings__fov_width=540)
    assert read(path).data_attributes.fov_width == 540


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        (
            "membrane",
            {"N_tiles": 7},
            "[training settings] N_subimgs and [training settings] N_tiles",
        ),
        (
            "membrane",
            {"average_flips": 8, "symmetries": True},
            "[testing settings] average_flips and [testing settings] symmetries",
        ),
        (
            "retina",
            {"fov_width": 0, "testing_settings__fov_width": 540},
            "[data attributes] fov_width and [testing settings] fov_width",
        ),
    ],
)
def test_a_key_under_both_its_names_is_refused(tmp_path, task, changes, words):
    (problem,) = problems_of(write_small(tmp_path, task=task, **changes))
    assert f"{words} are one key. Keep one of the two." in problem


# ---------------------------------------------------------------- mistakes


FOLDERS = "src, lib, tests, docs, benchmarks, drive, isbi, ctc; within pretrained, results, demo"
OWN = f"none of the project's own folders ({FOLDERS} it may lie)"
NAME = (
    "the name of a folder, or folders in each other (results/eyes), below the current one; "
    "without / or dots in front, quotes, or signs like : *"
)


@pytest.mark.parametrize(
    ("section", "name", "received", "expected"),
    [
        ("training settings", "N_subimgs", "many", "a whole number from 1 to 100000000"),
        ("training settings", "N_epochs", "-3", "a whole number of at least 1"),
        ("training settings", "batch_size", "3.5", "a whole number of at least 1"),
        ("training settings", "batch_size", "", "a whole number of at least 1"),
        ("training settings", "batch_size", "many # patches", "a whole number of at least 1"),
        ("training settings", "seed", "4294967296", "a whole number from 0 to 4294967295"),
        ("training settings", "learning_rate", "0", "a number above 0"),
        ("training settings", "learning_rate", "nan", "a number above 0"),
        ("training settings", "learning_rate", "inf", "a number above 0"),
        ("training settings", "learning_rate", "0,01", "a number above 0"),
        ("training settings", "saving_interval", "0", "a number of seconds above 0"),
        ("training settings", "time_limit", "-1", "a number of hours of at least 0"),
        ("training settings", "time_limit", "8:00", "a number of hours of at least 0"),
        *(
            (
                "testing settings",
                "camera_scales",
                bad,
                "a number above 0 and at most 4, or several of them: 0.67, 1, 1.33",
            )
            for bad in ("0", "1, x", "0.67 1", "1,", "5", "0.67 ; 1 ; 1.33", "1 ;2")
        ),
        ("training settings", "zoom", "0.5", "a number of at least 1 and at most 4"),
        ("training settings", "momentum", "1", "a number of at least 0 and at most 0.9999"),
        ("training settings", "optimizer", "rmsprop", "sgd or adam or adamw"),
        ("training settings", "inside_FOV", "perhaps", "True or False"),
        ("training settings", "initial_weights", "", "some text; it is empty"),
        *(
            (
                "training settings",
                "validation_split",
                received,
                "a share from 0 to 0.9, or a whole number of images from 1",
            )
            for received in ("0.95", "1.5", "-1", "half")
        ),
        ("testing settings", "full_images_to_test", "0", "a whole number of at least 1, or all"),
        ("testing settings", "threshold", "50", "a number of at least 0 and at most 1"),
        ("testing settings", "best_last", "worst", "best or last"),
        ("testing settings", "skip_order", "last", "auto or up_first or skip_first"),
        ("testing settings", "stride_height", "0", "a whole number of at least 1"),
        *(
            (
                "testing settings",
                "average_flips",
                received,
                "False (1), horizontal (2: and mirrored left-right), True (4 mirrorings) or 8 "
                "(and turned by 90 degrees)",
            )
            for received in ("3", "both")
        ),
        (
            "data attributes",
            "patch_height",
            "47",
            "a multiple of 4, because the network halves it twice; 44 or 48 would do",
        ),
        ("data attributes", "patch_width", "0", "a whole number of at least 4"),
        ("data paths", "path_local", "", "some text; it is empty"),
        *(
            ("experiment name", "name", received, OWN)
            for received in ("lib", "Src", "drive", "./ISBI", "docs/eyes", "Results", "pretrained/")
        ),
        *(
            ("experiment name", "name", received, NAME)
            for received in (
                "..",
                "a/../b",
                "/eyes",
                "a//b",
                ".hidden",
                "eyes: left",
                "a\\b",
                '"x"',
            )
        ),
        *(("experiment name", "name", received, NAME) for received in ("“x”", "‘x’", "a/x”")),
        ("experiment name", "name", "n" * 151, "a name of at most 150 letters"),
        ("experiment name", "task", "brain", " or ".join(TASKS)),
    ],
)
def test_one_problem_is_worded_with_what_was_expected_and_received(
    tmp_path, section, name, received, expected
):
    path = write_small(tmp_path, **{f"{section.replace(' ', '_')}__{name}": received})
    assert problems_of(path) == [
        f"{path}: [{section}] {name} must be {expected}. Received: {received or 'nothing'}."
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"stride_width": 17},
            "[testing settings] stride_width must be at most patch_width = 16, else pixels between "
            "patches are never seen. Received: 17. The original uses 5.",
        ),
        (
            {"patch_width": 32, "flip": True},
            "[data attributes] patch_width must be patch_height = 16 where patches are turned, "
            "deformed or varied. Received: 32. Or switch off elastic_sigma, rotation_degrees, "
            "shear, quarter_turns, flip, zoom, shift, brightness, contrast, gamma, noise and "
            "cutout in [training settings].",
        ),
        (
            {"validation_split": 0},
            "[testing settings] best_last must be last where validation_split = 0, because nothing "
            "tells which epoch was best. Received: best.",
        ),
    ],
)
def test_values_that_do_not_fit_each_other(tmp_path, changes, expected):
    path = write_small(tmp_path, **changes)
    assert problems_of(path) == [f"{path}: {expected}"]


def test_tiles_that_do_not_fit_the_depth_are_named_in_both_sections(tmp_path):
    path = write_small(
        tmp_path, task="membrane", data_attributes__tile_size=45, testing_settings__tile_size=46
    )
    first, second = problems_of(path)
    assert first.startswith(f"{path}: [data attributes] tile_size: ")
    assert second.startswith(f"{path}: [testing settings] tile_size: ")


def test_missing_key(tmp_path):
    path = write_small(tmp_path)
    path.write_text(path.read_text().replace("N_epochs = 5\n", ""))
    assert problems_of(path) == [
        f"{path}: [training settings] N_epochs is missing. configuration.txt has all keys as a "
        "template."
    ]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("N_epoch", " Did you mean N_epochs?"),
        ("MOMENTUN", " Did you mean momentum?"),
        ("lr", ""),
        ("device", ""),
    ],
)
def test_unknown_key_is_named_with_a_near_one_or_none(tmp_path, key, advice):
    path = write_small(tmp_path, **{key: 3})
    assert problems_of(path) == [f"{path}: [training settings] has an unknown key {key}.{advice}"]


@pytest.mark.parametrize(
    ("section", "advice"),
    [("data path", " Did you mean data paths?"), ("plots", ""), ("DEFAULT", "")],
)
def test_unknown_section_is_named_with_a_near_one_or_none(write_configuration, section, advice):
    path = write_configuration(append=f"[{section}]\nx = 1\n")
    assert problems_of(path) == [f"{path}: unknown section [{section}].{advice}"]


@pytest.mark.parametrize(
    ("task", "named"),
    [("segmentation", "segmentation"), ("membrane", "membrane"), ("retina", "retina")],
)
def test_keys_of_another_task_are_told_by_its_name(tmp_path, task, named):
    path = tmp_path / "configuration.txt"
    other = "membrane" if task == "retina" else "retina"
    text = (PROJECT / TASKS[task].template).read_text()
    path.write_text(text.replace(f"task = {task}", f"task = {other}"))
    first, *others = problems_of(path)
    assert first.startswith(f"{path}: ") and first.endswith(
        f"unknown keys below are keys of task = {named}. If that is meant, set [experiment name] "
        "task to it."
    )
    assert "has an unknown key" in others[0] and "keys of task" not in "".join(others)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "section", ["experiment name", "data attributes", "training settings", "testing settings"]
)
def test_a_section_whose_line_is_missing_is_told_alone(tmp_path, task, section):
    path = tmp_path / "configuration.txt"
    template = TASKS[task].template
    text = (PROJECT / template).read_text()
    # A key that two sections have stands there twice then: see test_duplicate_key.
    twice = ("nohup", "inside_FOV", "tile_size")
    lines = [line for line in text.splitlines() if not line.startswith(twice)]
    lines.insert(lines.index("[data attributes]") + 1, "tile_size = 572" * (task != "retina"))
    path.write_text("\n".join(line for line in lines if line != f"[{section}]"))
    assert problems_of(path) == [
        f"{path}: the line [{section}] is missing. Write it above the keys of that section, as in "
        f"{template}."
    ]


def test_a_section_that_is_missing_whole_or_misspelt_is_told_alone(tmp_path):
    path = write_small(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("[data attributes]\npatch_height = 16\npatch_width = 16\n", ""))
    (problem,) = problems_of(path)
    assert "the line [data attributes] is missing" in problem
    path.write_text(text.replace("[training settings]", "[training setting]"))
    assert problems_of(path) == [
        f"{path}: unknown section [training setting]. Did you mean training settings?"
    ]


def test_a_key_of_another_task_is_unknown(tmp_path):
    path = write_small(tmp_path, task="membrane", patch_height=48)
    assert "[training settings] has an unknown key patch_height." in problems_of(path)[0]


def test_a_script_of_one_task_takes_no_other(tmp_path):
    path = write_small(tmp_path, task="membrane")
    assert read(path, "membrane").task.name == "membrane"
    (problem,) = problems_of(path, "retina")
    assert "[experiment name] task must be retina. Received: membrane." in problem


def test_all_problems_are_listed_at_once(write_configuration):
    path = write_configuration(
        ("N_epochs = 150", ""),
        ("batch_size = 32", "batch_size = none\ncolour = red"),
        ("best_last = best", "best_last = worst"),
        append="[plots]\n",
    )
    problems = problems_of(path)
    for words in ("N_epochs is missing", "batch_size must", "best_last must", "colour", "[plots]"):
        assert words in "\n".join(problems)
    assert len(problems) == 5


def test_both_strides_are_reported(tmp_path):
    first, second = problems_of(write_small(tmp_path, stride_height=50, stride_width=60))
    assert "stride_height must be at most patch_height = 16" in first
    assert "stride_width must be at most patch_width = 16" in second


def test_orientations_of_cameras_go_with_their_sizes(tmp_path):
    (problem,) = problems_of(write_small(tmp_path, camera_scales="0.67, 1", camera_flips="4, 2, 1"))
    assert "camera_flips must be a number for each of camera_scales = 0.67, 1." in problem
    (problem,) = problems_of(write_small(tmp_path, camera_flips="3"))
    assert "camera_flips must be False (1), horizontal" in problem
    assert "or several of them: 4, 2, 1, or none. Received: 3" in problem


def test_duplicate_key(write_configuration):
    path = write_configuration(("batch_size = 32", "batch_size = 32\nbatch_size = 64"))
    (problem,) = problems_of(path)
    assert "[training settings] batch_size stands there twice. Keep one of the two;" in problem
    line = path.read_text().splitlines().index("batch_size = 64") + 1
    assert f"line {line}:" in problem


def test_duplicate_key_where_the_line_of_a_section_is_missing(write_configuration):
    (problem,) = problems_of(write_configuration(("[testing settings]\n", "")))
    assert "[training settings] nohup stands there twice." in problem
    assert "write the line of the second ([testing settings]) above its keys." in problem


def test_duplicate_section(write_configuration):
    (problem,) = problems_of(write_configuration(append="[data paths]\n"))
    assert "the section [data paths] stands there twice" in problem


def test_text_without_values(tmp_path):
    path = tmp_path / "configuration.txt"
    path.write_text("[training settings]\nseed = 1\nN_epochs 30  # all\n")
    (problem,) = problems_of(path)
    assert f"{path}, line 3, must be `key = value`, a [section], or a comment that" in problem
    assert problem.endswith("Received: N_epochs 30  # all.")


@pytest.mark.parametrize("line", ["patch_height = 48", r"{\rtf1\ansi [data paths]\line"])
def test_text_without_sections(tmp_path, line):
    path = tmp_path / "configuration.txt"
    path.write_text(f"# A configuration\n{line}\n[data paths]\n")
    assert problems_of(path) == [
        f"{path} must be plain text with sections like [data paths], each above its keys. Received "
        f"in line 2, above the first section: {line}. Write the section's line above it; if a word "
        "processor wrote the file, save it as plain text (UTF-8)."
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name = test", "name = test\n  task = retina"),
        ("test_border_masks = DRIVE", "test_border_masks = x\n  y = DRIVE"),
        ("nohup = True", "nohup = True\n  seed = 3"),
    ],
)
def test_indented_line_is_no_silent_part_of_the_value_above(write_configuration, old, new):
    # configparser takes an indented line for the continuation of the value above it.
    (problem,) = problems_of(write_configuration((old, new)))
    assert "is followed by an indented line" in problem
    assert "Begin every key at the left margin." in problem


@pytest.mark.parametrize("text", ["", "# [data paths]\n"])
def test_empty_file(tmp_path, text):
    path = tmp_path / "configuration.txt"
    path.write_text(text)
    assert problems_of(path) == [
        f"{path} is empty: it has no section such as [data paths]. Begin with a copy of "
        "configuration.txt, which has all keys."
    ]


def test_missing_file_says_where_it_was_looked_for(in_tmp_path):
    (problem,) = problems_of("configuration.txt")
    assert f"Configuration file {in_tmp_path}/configuration.txt does not exist." in problem


def test_folder_in_place_of_a_file(tmp_path):
    assert f"{tmp_path} is a folder" in problems_of(tmp_path)[0]


def test_file_that_may_not_be_read(write_configuration, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    path = write_configuration()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert problems_of(path) == [f"{path} cannot be read: Permission denied."]


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "configuration.txt"
    path.write_bytes(b"[data paths]\n# m\xfcll\n")
    assert problems_of(path) == [
        f"{path} must be a text file in UTF-8. Received: another encoding, in line 2. Save it as "
        "UTF-8, or write without accents."
    ]


def test_weights_or_data_in_place_of_a_configuration(tmp_path):
    path = tmp_path / "small_best.weights.h5"
    with h5py.File(path, "w") as file:
        file["a"] = 1
    assert problems_of(path) == [
        f"{path} is an HDF5 file, as weights and data are. Give the configuration, or the "
        "experiment's folder."
    ]


def test_problem_that_only_the_data_showed_is_worded_alike(write_configuration):
    path = write_configuration()
    given = read(path).problem("training settings", "N_subimgs", "a multiple of 3", "Use 3.")
    assert given == (
        f"{path}: [training settings] N_subimgs must be a multiple of 3. Received: 190000. Use 3."
    )
