"""Tests of reading configuration files: defaults, every type, and every error at once."""

from pathlib import Path

import pytest

from lib.configuration import REQUIRED, RETINA_KEYS, read_configuration
from lib.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]


def problems_of(path):
    """Reads a file that must be refused; gives what was wrong with it."""
    with pytest.raises(UserError) as error:
        read_configuration(path)
    return error.value.problems


def test_file_with_the_originals_keys_alone_reads_with_defaults(write_configuration):
    configuration = read_configuration(write_configuration())
    assert configuration.task == "retina"
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
        "data_attributes": {"patch_height": 48, "patch_width": 48, "equalization": "clahe"},
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
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "learning_rate_decay": "none",
            "momentum": 0.0,
            "network": "unet",
            "output_activation": "relu",
            "dropout": 0.2,
            "elastic_sigma": 0.0,
            "rotation_degrees": 0.0,
            "quarter_turns": False,
            "flip": False,
            "zoom": 1.0,
            "shift": 0.0,
            "brightness": 0.0,
            "contrast": 0.0,
            "noise": 0.0,
        },
        "testing_settings": {
            "best_last": "best",
            "full_images_to_test": 20,
            "N_group_visual": 1,
            "average_mode": True,
            "stride_height": 5,
            "stride_width": 5,
            "nohup": False,
            "inference": "patches",
            "inside_FOV": False,
            "average_flips": False,
            "images": "test",
            "threshold": 0.5,
            "fov_width": 0,
        },
    }


def test_sections_and_keys_are_attributes(write_configuration):
    configuration = read_configuration(write_configuration())
    assert configuration.data_attributes.patch_height == 48
    assert configuration.training_settings.nohup is True
    assert configuration.testing_settings.nohup is False
    assert not hasattr(configuration, "no_such_settings")


def test_shipped_configuration_names_every_key_and_spells_out_the_defaults():
    path = PROJECT / "configuration.txt"
    lines = [line.split("=")[0].strip() for line in path.read_text().splitlines() if "=" in line]
    assert {key.name for key in RETINA_KEYS} <= set(lines)
    sections = read_configuration(path).as_dict()
    shipped = {
        (key.section, key.name): sections[key.section.replace(" ", "_")][key.name]
        for key in RETINA_KEYS
        if key.default is not REQUIRED
    }
    defaults = {
        (key.section, key.name): key.default for key in RETINA_KEYS if key.default is not REQUIRED
    }
    assert shipped == defaults


def test_published_configuration_reads_as_it_is(unet_test_data):
    path = unet_test_data / "orobix_test" / "original_configuration.txt"
    configuration = read_configuration(path)
    assert configuration.training_settings.N_subimgs == 190000
    assert configuration.testing_settings.stride_width == 5


def test_inline_comments_are_no_part_of_a_value(write_configuration):
    path = write_configuration(
        ("patch_height = 48", "patch_height = 32  # pixels"),
        ("best_last = best", "best_last = last ; not best"),
    )
    configuration = read_configuration(path)
    assert configuration.data_attributes.patch_height == 32
    assert configuration.testing_settings.best_last == "last"


def test_byte_order_mark_of_windows_editors_is_skipped(write_configuration):
    path = write_configuration()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_configuration(path).experiment_name.name == "test"


@pytest.mark.parametrize(
    ("written", "value"),
    [("True", True), ("true", True), ("yes", True), ("1", True), ("FALSE", False), ("off", False)],
)
def test_truth_values_in_any_case(write_configuration, written, value):
    path = write_configuration(("average_mode = True", f"average_mode = {written}"))
    assert read_configuration(path).testing_settings.average_mode is value


def test_all_images_may_be_tested(write_configuration):
    path = write_configuration(("full_images_to_test = 20", "full_images_to_test = All"))
    assert read_configuration(path).testing_settings.full_images_to_test == "all"


def test_patches_that_are_turned_must_be_square(write_configuration):
    path = write_configuration(
        ("patch_width = 48", "patch_width = 64"),
        ("batch_size = 32", "batch_size = 32\nflip = True"),
    )
    (problem,) = problems_of(path)
    assert "[data attributes] patch_width must be patch_height = 48 where patches" in problem
    assert "Received: 64. Or switch off" in problem


def test_words_are_understood_in_any_case(write_configuration):
    path = write_configuration(("batch_size = 32", "batch_size = 32\noptimizer = Adam"))
    assert read_configuration(path).training_settings.optimizer == "adam"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "N_subimgs = 190000",
            "N_subimgs = many",
            "N_subimgs must be a whole number from 1 to 100000000. Received: many.",
        ),
        (
            "N_epochs = 150",
            "N_epochs = -3",
            "[training settings] N_epochs must be a whole number of at least 1. Received: -3.",
        ),
        (
            "batch_size = 32",
            "batch_size = 3.5",
            "[training settings] batch_size must be a whole number of at least 1. Received: 3.5.",
        ),
        (
            "batch_size = 32",
            "batch_size =",
            "[training settings] batch_size must be a whole number of at least 1. "
            "Received: nothing.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nseed = 4294967296",
            "[training settings] seed must be a whole number from 0 to 4294967295. "
            "Received: 4294967296.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nlearning_rate = 0",
            "[training settings] learning_rate must be a number above 0. Received: 0.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nlearning_rate = nan",
            "[training settings] learning_rate must be a number above 0. Received: nan.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nlearning_rate = inf",
            "[training settings] learning_rate must be a number above 0. Received: inf.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nlearning_rate = 0,01",
            "[training settings] learning_rate must be a number above 0. Received: 0,01.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nzoom = 0.5",
            "[training settings] zoom must be a number of at least 1 and at most 4. Received: 0.5.",
        ),
        (
            "full_images_to_test = 20",
            "full_images_to_test = some",
            "full_images_to_test must be a whole number of at least 1, or all. Received: some.",
        ),
        (
            "full_images_to_test = 20",
            "full_images_to_test = 20\nthreshold = 50",
            "[testing settings] threshold must be a number of at least 0 and at most 1. "
            "Received: 50.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nmomentum = 1",
            "[training settings] momentum must be a number of at least 0 and at most 0.9999. "
            "Received: 1.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\noptimizer = rmsprop",
            "[training settings] optimizer must be sgd or adam. Received: rmsprop.",
        ),
        (
            "inside_FOV = False",
            "inside_FOV = perhaps",
            "[training settings] inside_FOV must be True or False. Received: perhaps.",
        ),
        (
            "best_last = best",
            "best_last = best\ninference = full_image\ninside_FOV = True",
            "[testing settings] inside_FOV must be False with inference = full_image, which leaves "
            "no patch out. Received: True.",
        ),
        (
            "best_last = best",
            "best_last = worst",
            "[testing settings] best_last must be best or last. Received: worst.",
        ),
        (
            "stride_height = 5",
            "stride_height = 0",
            "[testing settings] stride_height must be a whole number of at least 1. Received: 0.",
        ),
        (
            "stride_width = 5",
            "stride_width = 49",
            "[testing settings] stride_width must be at most patch_width = 48, else pixels between "
            "patches are never seen. Received: 49. The original uses 5.",
        ),
        (
            "patch_height = 48",
            "patch_height = 47",
            "[data attributes] patch_height must be a multiple of 4, because the network halves it "
            "twice; 44 or 48 would do. Received: 47.",
        ),
        (
            "patch_width = 48",
            "patch_width = 0",
            "[data attributes] patch_width must be a whole number of at least 4. Received: 0.",
        ),
        (
            "path_local =  ./DRIVE_datasets_training_testing/",
            "path_local =",
            "[data paths] path_local must be some text; it is empty. Received: nothing.",
        ),
        (
            "name = test",
            "name = lib",
            "[experiment name] name must be none of the project's own folders (src, lib, tests, ",
        ),
        (
            "name = test",
            "name = runs/first",
            "[experiment name] name must be the name of a folder, without dots in front, slashes "
            "or signs like : *. Received: runs/first.",
        ),
        ("name = test", "name = ..", "without dots in front"),
        (
            "name = test",
            f"name = {'n' * 151}",
            "[experiment name] name must be a name of at most 150 letters",
        ),
        (
            "name = test",
            "name = test\ntask = brain",
            "[experiment name] task must be retina or membrane. Received: brain.",
        ),
        (
            "N_epochs = 150",
            "",
            "[training settings] N_epochs is missing. Add it, or take configuration.txt as a "
            "pattern.",
        ),
        (
            "batch_size = 32",
            "batch_size = 32\nN_epoch = 3",
            "[training settings] has an unknown key N_epoch. The nearest known name is N_epochs.",
        ),
        (
            "[data paths]",
            "[data path]\nx = 1\n[data paths]",
            "unknown section [data path]. The nearest known name is data paths.",
        ),
    ],
)
def test_one_problem_is_worded_with_what_was_expected_and_received(
    write_configuration, old, new, words
):
    path = write_configuration((old, new))
    problems = problems_of(path)
    assert len(problems) == 1
    assert words in problems[0]
    assert problems[0].startswith(str(path))


def test_all_problems_are_listed_at_once(write_configuration):
    path = write_configuration(
        ("N_epochs = 150", ""),
        ("batch_size = 32", "batch_size = none\ncolour = red"),
        ("best_last = best", "best_last = worst"),
        append="[plots]\n",
    )
    problems = "\n".join(problems_of(path))
    for words in ("N_epochs is missing", "batch_size must", "best_last must", "colour", "[plots]"):
        assert words in problems
    assert len(problems.splitlines()) == 5


def test_both_strides_are_reported(write_configuration):
    path = write_configuration(
        ("stride_height = 5", "stride_height = 50"), ("stride_width = 5", "stride_width = 60")
    )
    first, second = problems_of(path)
    assert "stride_height must be at most patch_height = 48" in first
    assert "stride_width must be at most patch_width = 48" in second


def test_duplicate_key(write_configuration):
    path = write_configuration(("batch_size = 32", "batch_size = 32\nbatch_size = 64"))
    (problem,) = problems_of(path)
    assert "[training settings] batch_size stands there twice. Keep one of the two." in problem
    line = path.read_text().splitlines().index("batch_size = 64") + 1
    assert f"line {line}:" in problem


def test_duplicate_section(write_configuration):
    (problem,) = problems_of(write_configuration(append="[data paths]\n"))
    assert "the section [data paths] stands there twice" in problem


def test_line_that_is_no_key(write_configuration):
    (problem,) = problems_of(write_configuration(("nohup = True", "nohup")))
    assert "cannot be read as sections in [brackets] with lines `key = value`" in problem


def test_file_without_sections(tmp_path):
    path = tmp_path / "configuration.txt"
    path.write_text("patch_height = 48\n")
    assert "cannot be read as sections in [brackets]" in problems_of(path)[0]


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


def test_empty_file_lists_every_required_key(tmp_path):
    path = tmp_path / "configuration.txt"
    path.write_text("")
    required = [key for key in RETINA_KEYS if key.default is REQUIRED]
    problems = problems_of(path)
    assert len(problems) == len(required) == 22
    assert all("is missing" in problem for problem in problems)


def test_missing_file_says_where_it_was_looked_for(in_tmp_path):
    (problem,) = problems_of("configuration.txt")
    assert "Configuration file configuration.txt does not exist." in problem
    assert f"Looked in {in_tmp_path}" in problem


def test_folder_in_place_of_a_file(tmp_path):
    assert "is a folder" in problems_of(tmp_path)[0]


def test_file_that_may_not_be_read(write_configuration, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied")

    path = write_configuration()
    monkeypatch.setattr(Path, "read_text", refuse)
    assert problems_of(path) == [f"{path} cannot be read: Permission denied."]


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "configuration.txt"
    path.write_bytes(b"\xff\xfe[\x00d\x00")
    assert problems_of(path) == [f"{path} is not a text file in UTF-8."]


def test_problem_that_only_the_data_showed_is_worded_alike(write_configuration):
    path = write_configuration()
    configuration = read_configuration(path)
    expected = (
        f"{path}: [training settings] N_subimgs must be a multiple of 3. Received: 190000. Use 3."
    )
    given = configuration.problem("training settings", "N_subimgs", "a multiple of 3", "Use 3.")
    assert given == expected
