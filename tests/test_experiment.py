"""Tests of an experiment's folder: names, weights, permissions, the lock."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import UserError
from lib.experiment import Experiment

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def experiment(in_tmp_path):
    """An experiment named `run` whose folder exists."""
    (in_tmp_path / "run").mkdir()
    return Experiment("run")


def problem_of(context):
    """Enters a context that must refuse; gives its one problem."""
    with pytest.raises(UserError) as error, context:
        pass
    (problem,) = error.value.problems
    return problem


def test_files_carry_the_name_of_the_experiment(experiment):
    assert experiment.file("log.csv") == Path("run/run_log.csv")
    assert experiment.weights("best") == Path("run/run_best.weights.h5")


# ---------------------------------------------------------------- weights


def test_own_weights_come_before_those_of_retina_unet(experiment):
    experiment.file("best_weights.h5").touch()
    assert experiment.find_weights("best") == Path("run/run_best_weights.h5")
    experiment.weights("best").touch()
    assert experiment.find_weights("best") == Path("run/run_best.weights.h5")


def test_renamed_folder_of_retina_unet_is_understood(experiment):
    Path("run/test_best_weights.h5").touch()
    Path("run/test_last_weights.h5").touch()
    assert experiment.find_weights("best") == Path("run/test_best_weights.h5")
    assert experiment.find_weights("last") == Path("run/test_last_weights.h5")


def test_copied_folder_of_a_shipped_experiment_is_understood(experiment):
    Path("run/best_last.weights.h5").touch()
    Path("run/.12_best_last.weights.h5").touch()  # half-written
    assert experiment.find_weights("last") == Path("run/best_last.weights.h5")
    experiment.weights("last").touch()
    assert experiment.find_weights("last") == Path("run/run_last.weights.h5")


def test_renamed_folder_with_several_candidates_is_refused(experiment):
    Path("run/a_best_weights.h5").touch()
    Path("run/b_best_weights.h5").touch()
    with pytest.raises(UserError) as error:
        experiment.find_weights("best")
    assert "Found there: a_best_weights.h5, b_best_weights.h5." in str(error.value)


def test_missing_weights_say_what_is_there(experiment):
    with pytest.raises(UserError) as error:
        experiment.find_weights("best")
    assert str(error.value) == (
        "run/run_best.weights.h5 does not exist (nor run_best_weights.h5, as retina-unet named "
        "it). Found there: no weights. Train first, or mend [experiment name] name or "
        "[testing settings] best_last."
    )
    experiment.weights("last").touch()
    with pytest.raises(UserError, match="Found there: run_last.weights.h5."):
        experiment.find_weights("best")


def test_missing_folder(in_tmp_path):
    with pytest.raises(UserError, match="The experiment folder none does not exist. Train first"):
        Experiment("none").find_weights("best")


# ---------------------------------------------------------------- the folder


def test_folder_is_made_and_kept_with_what_is_in_it(in_tmp_path):
    experiment = Experiment("run")
    with experiment.writable_folder():
        assert os.listdir("run") == []
        experiment.file("log.csv").touch()
    assert os.listdir("run") == ["run_log.csv"]


def test_folder_that_stays_empty_because_of_an_error_is_taken_away(in_tmp_path):
    with pytest.raises(UserError), Experiment("run").writable_folder():
        raise UserError("no data")
    assert os.listdir(in_tmp_path) == []


def test_a_refused_training_leaves_no_folder(in_tmp_path):
    experiment = Experiment("run")
    with pytest.raises(UserError), experiment.writable_folder(), experiment.locked_for_training():
        raise UserError("no data")
    assert os.listdir(in_tmp_path) == []


def test_folder_marked_read_only_is_left_alone(experiment):
    Path("run").chmod(0o555)
    problem = problem_of(experiment.writable_folder())
    assert problem == (
        "The experiment folder run cannot be written to: the folder is marked read-only. Change "
        "its permissions (chmod u+w run) or choose another [experiment name] name."
    )
    assert os.listdir("run") == []


def test_file_where_the_folder_should_be(in_tmp_path):
    Path("run").write_text("a file")
    problem = problem_of(Experiment("run").writable_folder())
    assert problem.startswith("run is a file, where the folder of the experiment belongs. Move it")
    assert Path("run").read_text() == "a file"


def test_old_results_make_room_and_it_is_said(experiment, capsys):
    experiment.remove_results()
    assert capsys.readouterr().out == ""
    Path("run/segmentations").mkdir()
    Path("run/segmentations/1.png").touch()
    Path("run/notes.txt").touch()
    experiment.remove_results()
    assert "results of an earlier test in run make room" in capsys.readouterr().out
    assert sorted(os.listdir("run")) == ["notes.txt", "segmentations"]
    assert os.listdir("run/segmentations") == []


# ---------------------------------------------------------------- the lock


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_lock_that_cannot_be_opened_is_worded(experiment):
    Path("run/.training.lock").mkdir()  # stands for a file of another user
    problem = problem_of(experiment.locked_for_training())
    assert "run/.training.lock cannot be written to" in problem


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_second_training_is_refused_while_the_first_runs(experiment):
    with experiment.locked_for_training():
        problem = problem_of(Experiment("run").locked_for_training())
        assert problem == (
            f"The experiment run is being trained by process {os.getpid()}. Wait for it or stop "
            "it first."
        )
    with experiment.locked_for_training():  # free again
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_lock_goes_with_a_process_that_is_killed(experiment):
    code = (
        "from lib.experiment import Experiment\n"
        "with Experiment('run').locked_for_training():\n"
        "    print('locked', flush=True)\n"
        "    input()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as other:
        assert other.stdout.readline() == "locked\n"
        assert f"by process {other.pid}." in problem_of(experiment.locked_for_training())
        other.kill()
    with experiment.locked_for_training():
        pass


def test_other_errors_go_through_the_lock(experiment):
    with pytest.raises(ZeroDivisionError), experiment.locked_for_training():
        raise ZeroDivisionError


# ---------------------------------------------------------------- starting anew


def test_a_new_training_takes_away_the_earlier_one_with_its_figures_and_no_more(experiment):
    gone = ["run_last.weights.h5", "run_best.weights.h5", "run_log.csv", "run_loss_curves.png"]
    gone += ["performances.txt", "validation/performances.json", "training/ROC.png"]
    kept = ["run_training.nohup", "notes.txt", "run_best_weights.h5", "validation/notes.txt"]
    for name in gone + kept:
        Path("run", name).parent.mkdir(exist_ok=True)
        Path("run", name).touch()
    experiment.remove_training()
    left = {str(path.relative_to("run")) for path in Path("run").rglob("*") if path.is_file()}
    assert left == set(kept)
    Path("run", "performances.txt").touch()  # of weights of retina-unet, which stay
    experiment.remove_training()
    assert Path("run", "performances.txt").exists()


def test_configuration_is_kept_beside_the_results(experiment):
    Path("mine.txt").write_text("[experiment name]\nname = run\n")
    experiment.keep_configuration(Path("mine.txt"))
    assert Path("run/run_configuration.txt").read_text() == "[experiment name]\nname = run\n"
    # Started from the kept copy itself, there is nothing to copy.
    experiment.keep_configuration(Path("run/run_configuration.txt"))
    assert Path("run/run_configuration.txt").read_text() == "[experiment name]\nname = run\n"
