"""Tests of an experiment's folder: where it lies, names, weights, permissions, the lock."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib import experiment as module
from lib.errors import UserError
from lib.experiment import LOCK, PROJECT, Experiment, locate, one_at_a_time, writable_folder

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")


@pytest.fixture
def experiment(in_tmp_path):
    """An experiment named `run` whose folder exists."""
    (in_tmp_path / "run").mkdir()
    return Experiment("run")


@pytest.fixture
def shipped(in_tmp_path, monkeypatch):
    """An experiment in the pretrained/ of a project that lies elsewhere."""
    pretrained = in_tmp_path / "project" / "pretrained"
    monkeypatch.setattr(module, "PROJECT", pretrained.parent)
    monkeypatch.setattr(module, "PRETRAINED", pretrained)
    (pretrained / "eyes").mkdir(parents=True)
    for ending in ("configuration.txt", "last.weights.h5", "log.csv", "architecture.json"):
        (pretrained / "eyes" / f"eyes_{ending}").write_text(f"shipped {ending}")
    (pretrained / "eyes" / "performances.txt").write_text("shipped scores")
    return Experiment("pretrained/eyes")


def problem_of(context):
    """Enters a context that must refuse; gives its one problem."""
    with pytest.raises(UserError) as error, context:
        pass
    (problem,) = error.value.problems
    return problem


# ---------------------------------------------------------------- where it lies


def test_paths_are_relative_to_the_current_folder(in_tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(in_tmp_path / "home"))
    assert locate("a/../b") == in_tmp_path / "b"
    assert locate("/x/y") == Path("/x/y")
    assert locate("~/y") == in_tmp_path / "home" / "y"


def test_what_is_not_in_pretrained_here_is_taken_from_the_project(in_tmp_path):
    weights = "pretrained/vessels/vessels_last.weights.h5"
    assert locate(weights) == locate(f"./{weights}") == PROJECT / weights
    (in_tmp_path / "pretrained" / "vessels").mkdir(parents=True)
    assert locate("pretrained/vessels") == in_tmp_path / "pretrained" / "vessels"
    assert locate("other/pretrained/x") == in_tmp_path / "other" / "pretrained" / "x"


def test_files_carry_the_last_name_of_the_folder(in_tmp_path):
    experiment = Experiment("results/eyes")
    assert experiment.file("log.csv") == in_tmp_path / "results" / "eyes" / "eyes_log.csv"
    assert experiment.weights("best") == in_tmp_path / "results/eyes/eyes_best.weights.h5"
    assert experiment.original_weights("best") == in_tmp_path / "results/eyes/eyes_best_weights.h5"


def test_results_lie_in_the_folder_or_where_one_says(experiment, in_tmp_path):
    assert experiment.results == experiment.folder == in_tmp_path / "run"
    assert Experiment("run", output="elsewhere/x").results == in_tmp_path / "elsewhere" / "x"


def test_results_of_a_shipped_experiment_lie_in_the_current_folder(shipped, in_tmp_path):
    assert shipped.is_shipped
    assert shipped.folder == in_tmp_path / "project" / "pretrained" / "eyes"
    assert shipped.results == in_tmp_path / "results" / "eyes"
    assert Experiment("pretrained/eyes", output="x").results == in_tmp_path / "x"


def test_training_of_a_shipped_experiment_is_a_copy_made_once(shipped, in_tmp_path, capsys):
    copy = shipped.copied_to_results()
    assert copy.folder == copy.results == in_tmp_path / "results" / "eyes"
    assert f"{shipped.folder} stays as it is: the training is in {copy.folder}." in (
        capsys.readouterr().out
    )
    endings = ("architecture.json", "configuration.txt", "last.weights.h5", "log.csv")
    assert sorted(os.listdir(copy.folder)) == [f"eyes_{ending}" for ending in endings]
    assert copy.weights("last").read_text() == "shipped last.weights.h5"
    copy.weights("last").write_text("trained further")
    assert shipped.copied_to_results().weights("last").read_text() == "trained further"
    assert shipped.weights("last").read_text() == "shipped last.weights.h5"


def test_a_shipped_experiment_without_weights_is_trained_anew(shipped, in_tmp_path):
    shipped.weights("last").unlink()
    assert not shipped.copied_to_results().folder.exists()
    with pytest.raises(UserError, match="holds no weights. They are trained by python run_train"):
        shipped.find_weights("last")


def test_of_several_hosts_only_the_first_copies(shipped):
    copy = Experiment("pretrained/eyes", is_first_host=False).copied_to_results()
    assert not copy.folder.exists()


# ---------------------------------------------------------------- weights


def test_own_weights_come_before_those_of_retina_unet(experiment):
    for path in (experiment.original_weights("best"), experiment.weights("best")):
        path.touch()
        assert experiment.find_weights("best") == path


@pytest.mark.parametrize("ending", ["best_weights.h5", "best.weights.h5"])
def test_weights_of_a_renamed_or_copied_folder_are_found(experiment, ending):
    (experiment.folder / f"test_{ending}").touch()
    (experiment.folder / f"test_{ending.replace('best', 'last')}").touch()
    (experiment.folder / f".12_test_{ending}").touch()  # half-written
    assert experiment.find_weights("best") == experiment.folder / f"test_{ending}"


def test_renamed_folder_with_several_candidates_is_refused(experiment):
    for name in "ab":
        (experiment.folder / f"{name}_best_weights.h5").touch()
    with pytest.raises(UserError) as error:
        experiment.find_weights("best")
    assert "Found there: a_best_weights.h5, b_best_weights.h5." in str(error.value)


def test_missing_weights_say_what_is_there(experiment):
    with pytest.raises(UserError) as error:
        experiment.find_weights("best")
    assert str(error.value) == (
        f"{experiment.weights('best')} does not exist (nor run_best_weights.h5, as retina-unet "
        "named it). Found there: no weights. Train first, or correct [experiment name] name or "
        "[testing settings] best_last."
    )
    experiment.weights("last").touch()
    with pytest.raises(UserError, match="Found there: run_last.weights.h5."):
        experiment.find_weights("best")


def test_missing_folder_and_a_file_in_its_place(in_tmp_path):
    words = f"The experiment folder {in_tmp_path}/none does not exist. Train first"
    with pytest.raises(UserError, match=words):
        Experiment("none").find_weights("best")
    Path("none").touch()
    with pytest.raises(UserError, match="none is a file, where the folder of the experiment"):
        Experiment("none").find_weights("best")


# ---------------------------------------------------------------- a folder to write to


def test_folder_is_made_and_kept_with_what_is_in_it(in_tmp_path):
    folder = in_tmp_path / "results" / "run"
    with writable_folder(folder):
        assert os.listdir(folder) == []
        (folder / "log.csv").touch()
    assert os.listdir(folder) == ["log.csv"]


def test_a_refused_training_leaves_no_folder(in_tmp_path):
    experiment = Experiment("run")
    with pytest.raises(UserError), writable_folder(experiment.folder):
        with experiment.locked_for_training():
            raise UserError("no data")
    assert os.listdir(in_tmp_path) == []


def test_folder_marked_read_only_is_left_alone(experiment):
    experiment.folder.chmod(0o555)
    folder = experiment.folder
    assert problem_of(writable_folder(folder)) == (
        f"The folder {folder} cannot be written to: the folder is marked read-only. Change its "
        f"permissions (chmod u+w {folder}), or choose another folder ([experiment name] name, or "
        "--output)."
    )
    below = folder / "new" / "deep"
    assert f"The folder {folder} cannot be written to: the" in problem_of(writable_folder(below))
    assert os.listdir(folder) == []


def test_file_where_the_folder_should_be(in_tmp_path):
    path = in_tmp_path / "run"
    path.write_text("a file")
    assert problem_of(writable_folder(path)).startswith(f"{path} is a file, where a folder belongs")
    assert path.read_text() == "a file"


# ---------------------------------------------------------------- the lock


@needs_locks
def test_lock_that_cannot_be_opened_is_worded(experiment):
    (experiment.folder / LOCK).mkdir()  # stands for a file of another user
    problem = problem_of(experiment.locked_for_training())
    assert f"{experiment.folder / LOCK} cannot be written to" in problem


@needs_locks
def test_second_training_is_refused_while_the_first_runs(experiment):
    with experiment.locked_for_training():
        for _ in range(2):  # who is refused takes nothing away
            second = Experiment("run")
            with writable_folder(second.folder):
                assert problem_of(second.locked_for_training()) == (
                    f"The experiment run is being trained by process {os.getpid()}. Wait for it or "
                    "stop it first."
                )
    assert os.listdir(experiment.folder) == [LOCK]  # it stays, and is free
    with experiment.locked_for_training():
        pass


@needs_locks
def test_lock_goes_with_a_process_that_is_killed_and_what_it_left_half_written(experiment):
    code = (
        "from lib.experiment import Experiment\n"
        "with Experiment('run').locked_for_training():\n"
        "    print('locked', flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    half_written = [
        experiment.folder / f".123_run_{end}" for end in ("last.weights.h5", "model.txt")
    ]
    of_others = experiment.folder / ".123_notes.h5"
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        for path in (*half_written, of_others):
            path.touch()
        assert f"by process {other.pid}." in problem_of(experiment.locked_for_training())
        assert all(path.exists() for path in half_written)
        other.kill()
    with experiment.locked_for_training():
        assert not any(path.exists() for path in half_written)
        assert of_others.exists()


@needs_locks
def test_a_second_testing_of_a_folder_is_refused_and_a_training_is_not(experiment):
    with one_at_a_time(experiment.folder, "testing"):
        with experiment.locked_for_training():
            words = f"Another testing writes to {experiment.folder}. Wait until it has ended, or"
            assert problem_of(one_at_a_time(experiment.folder, "testing")).startswith(words)
    with one_at_a_time(experiment.folder, "testing"), one_at_a_time("nowhere", "testing"):
        pass


@needs_locks
def test_a_network_drive_without_locks_is_told(experiment, monkeypatch, capsys):
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with experiment.locked_for_training(), one_at_a_time(experiment.folder, "testing"):
        told = capsys.readouterr().out
    assert f"{experiment.folder} cannot be locked: take care that one training" in told
    assert "take care that one testing" in told


def test_of_several_hosts_only_the_first_locks(experiment):
    with experiment.locked_for_training():
        with Experiment("run", is_first_host=False).locked_for_training():
            pass


# ---------------------------------------------------------------- starting anew


def test_a_new_training_takes_away_the_earlier_one_and_no_more(experiment):
    gone = ["run_last.weights.h5", "run_best.weights.h5", "run_log.csv", "run_loss_curves.png"]
    kept = ["notes.txt", "run_best_weights.h5", "run_training.nohup"]
    for name in gone + kept:
        (experiment.folder / name).touch()
    experiment.remove_training()
    assert sorted(os.listdir(experiment.folder)) == kept


def test_configuration_is_kept_beside_the_results(experiment):
    kept = experiment.file("configuration.txt")
    for path in ("mine.txt", kept):  # started from the kept copy, there is nothing to copy
        Path("mine.txt").write_text("[experiment name]\nname = run\n")
        experiment.keep_configuration(Path(path))
        assert kept.read_text() == "[experiment name]\nname = run\n"
