"""The front door: what README.md tells a newcomer to type and to read is there."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lib.experiment import PROJECT
from tests.processes import require_success, run

README = (PROJECT / "README.md").read_text(encoding="utf-8")
MOST_LINES, MOST_ROOT_ENTRIES = 150, 26
# What tasks beyond the two of the originals may add to the root.
OF_FURTHER_TASKS = {
    "CTC",
    "configuration_CTC.txt",
    "configuration_folder.txt",
    "prepare_datasets_CTC.py",
    "prepare_datasets_folder.py",
    "run_prediction.py",
}
# Folders that hold what the user puts or makes there.
OF_THE_USER = ("my_", "results/", "published/", "demo/phantom/", "demo/vessels/", "demo/membranes/")
SHELL = {"cp", "mkdir", "source"}
needs_git = pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a clone: no git")


def blocks():
    """Gives the code blocks, a list of commands each, without comments."""
    found = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [[line.partition("#")[0].strip() for line in block.splitlines()] for block in found]
    return [[line for line in block if line] for block in lines]


def commands():
    """Gives every command: those of the blocks, and those in the text between back quotes."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    quoted = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)]
    starts = ("python ", "make ", "pip ")
    return [*sum(blocks(), []), *(words for words in quoted if words.startswith(starts))]


@functools.cache
def help_of(script):
    return require_success(run(script, "--help", cwd=PROJECT))


def problems_of(command):
    """Tells what in a command is not there."""
    program, *words = shlex.split(command)
    if program == "make":
        lines = re.findall(r"^([\w -]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        targets = " ".join(lines).split()
        return [word for word in words if "=" not in word and word not in targets]
    missing = [word for word in words if is_ours(word) and not (PROJECT / word).exists()]
    if program == "python" and not missing:
        script, *words = words
        options = [word for word in words if word.startswith("--")]
        return [word for word in options if not re.search(rf"{word}\b", help_of(script))]
    return missing if program in SHELL | {"python", "pip"} else [program]


def is_ours(word):
    """Tells whether a word names a file or folder of the repository."""
    if word.startswith((*OF_THE_USER, "-", ".venv")) or word in ("test", "."):
        return False
    return "/" in word or word.endswith((".py", ".md", ".txt"))


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_every_command_has_its_script_its_options_and_its_files(command):
    assert problems_of(command) == []


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("python run_tests.py", ["run_tests.py"]),
        ("python run_testing.py pretrained/veins --data here", ["pretrained/veins"]),
        ("python run_testing.py pretrained/vessels --dat here", ["--dat"]),
        ("make demos", ["demos"]),
        ("wget x", ["wget"]),
    ],
)
def test_a_command_that_does_not_work_is_found(command, missing):
    assert problems_of(command) == missing


def test_every_link_leads_somewhere():
    targets = re.findall(r"\]\(([^)\s]+)\)", README)
    paths = [target.partition("#")[0] for target in targets if "://" not in target]
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).exists()] == []


def test_every_path_between_back_quotes_is_there():
    quoted = re.findall(r"`([\w./-]+)`", README)
    paths = [path for path in quoted if is_ours(path) and path not in WRITTEN_BY_SCRIPTS]
    assert len(paths) > 10
    assert [path for path in paths if not (PROJECT / path).exists()] == []


WRITTEN_BY_SCRIPTS = {"DRIVE/", "ISBI/", "test/"}


def test_it_is_short():
    assert len(README.splitlines()) <= MOST_LINES


@needs_git
def test_the_root_is_easy_to_see_through():
    files = subprocess.check_output(["git", "ls-files"], cwd=PROJECT, text=True).splitlines()
    entries = {Path(file).parts[0] for file in files}
    assert len(entries - OF_FURTHER_TASKS) <= MOST_ROOT_ENTRIES
    shipped = [path for path in entries if list((PROJECT / path).glob("*.weights.h5"))]
    assert shipped == []


@needs_git
@pytest.mark.slow
def test_the_commands_between_demo_and_data_sets_work_in_order_and_leave_the_clone_clean(tmp_path):
    """The blocks of a newcomer's own images, on small phantoms in place of the demonstration's."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", PROJECT, clone], check=True)
    small = ["--num-training", "2", "--num-test", "1", "--num-slices", "2"]
    sizes = ["--height", "200", "--width", "192"]
    folder = clone / "demo" / "phantom"
    require_success(run("demo/prepare_datasets_phantom.py", folder, *small, *sizes, cwd=clone))
    signs = ("my_", "run_prediction.py")
    own = [block for block in blocks() if any(sign in line for line in block for sign in signs)]
    assert len(own) == 3
    for command in sum(own, []):
        if command.startswith("python run_training.py"):  # many epochs of many patches
            path = clone / "my_vessels" / "my_vessels_configuration.txt"
            text = re.sub(r"(?m)^N_subimgs = \d+", "N_subimgs = 16", path.read_text())
            path.write_text(re.sub(r"(?m)^N_epochs = \d+", "N_epochs = 1", text))
        environment = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
        done = subprocess.run(f"{environment} {command}", shell=True, cwd=clone, text=True)
        assert done.returncode == 0, command
        status = ["git", "status", "--porcelain"]
        assert subprocess.check_output(status, cwd=clone, text=True) == "", command
    for folder in ("my_photographs_segmented", "segmented"):
        assert (clone / folder / "report.html").is_file()
        assert list((clone / folder).glob("*_segmentation.png"))
    assert (clone / "my_vessels/segmentations").is_dir()
