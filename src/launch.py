"""Starts the script that a configuration asks for, in the foreground or with a log file."""

import argparse
import contextlib
import importlib
from pathlib import Path

from lib.backends import is_first_host, quietly, require_backend
from lib.configuration import read_configuration
from lib.errors import UserError, raise_if_any, run_script
from lib.experiment import Experiment, locate, one_at_a_time, writable_folder
from lib.log_file import output_in
from src.tasks import TASKS


def launch(step, task=None):
    """Reads the command line, and runs one step of the configured experiment.

    Args:
        step: "training" or "testing".
        task: where a script of src was started by itself, its task: it runs no other, and without
            a log file.
    Returns:
        exit status: see lib.errors.run_script.
    """
    default = TASKS[task or "retina"].template
    arguments = _read_command_line(step, default)
    return run_script(lambda: {"training": train, "testing": test}[step](arguments, task))


def train(arguments, task=None):
    """Runs a training as the command line says; a shipped experiment resumes in a copy."""
    require_backend()
    configuration, folder = find_configuration(arguments, task)
    name = configuration.experiment_name.name
    if folder and Path(name).name != folder.name:
        print(f"The folder {folder} is trained. For name = {name} give {configuration.path}.")
    is_first = is_first_host(configuration.training_settings.distribute)
    experiment = Experiment(folder or name, is_first)
    if experiment.is_shipped:
        experiment = experiment.copied_to_results()
    script = _load_script(configuration.task.training)
    nohup = configuration.training_settings.nohup and not task and is_first
    log = experiment.file("training.nohup") if nohup else None
    with _place(experiment.folder, log, is_first):
        script.main(configuration, experiment, overwrite=arguments.overwrite)


def test(arguments, task=None):
    """Runs a test as the command line says."""
    require_backend()
    configuration, folder = find_configuration(arguments, task)
    configuration, problems = at_angle(configuration, arguments.angle)
    raise_if_any(problems)
    name = folder or configuration.experiment_name.name
    experiment = Experiment(name, output=arguments.output)
    script = _load_script(configuration.task.testing)
    nohup = configuration.testing_settings.nohup and not task
    log = experiment.results / f"{experiment.name}_testing.nohup" if nohup else None
    experiment.find_weights(configuration.testing_settings.best_last)
    with _place(experiment.results, log), one_at_a_time(experiment.results, "testing"):
        script.main(configuration, experiment)


def find_configuration(arguments, task=None):
    """Reads the configuration that the command line names, or that of an experiment's folder.

    Args:
        arguments: with configuration, a file or a folder, and data, which replaces path_local.
        task: name of the only task that will do; None for any.
    Returns:
        lib.configuration.Configuration; and the folder, None where a file was named.
    Raises:
        UserError: if the folder holds no configuration, or more than one; or as
            read_configuration.
    """
    path = locate(arguments.configuration)
    folder = path if path.is_dir() else None
    if folder:
        path = _kept_configuration(folder)
    configuration = read_configuration(path, TASKS, task)
    if arguments.data:
        configuration = configuration.with_values("data_paths", path_local=arguments.data)
    return configuration, folder


def at_angle(configuration, angle):
    """Sets the scale for photographs of another camera than that of the training.

    Vessels of the same eye are as many pixels wide where the field of view is in proportion to its
    angle: fov_width * angle / fov_angle.

    Args:
        configuration: lib.configuration.Configuration.
        angle: that the field of view covers, in degrees; None for the training's.
    Returns:
        lib.configuration.Configuration with another fov_width, and problems.
    """
    if angle is None:
        return configuration, []
    attributes = configuration.data_attributes
    if not 0 < angle <= 360:
        return configuration, [f"--angle must be from above 0 to 360. Received: {angle:g}."]
    if not getattr(attributes, "fov_width", 0):
        return configuration, [
            f"--angle needs an experiment with a width of the field of view ([data attributes] "
            f"fov_width above 0). {configuration.path} has none."
        ]
    width = max(1, round(attributes.fov_width * angle / attributes.fov_angle))
    return configuration.with_values("data_attributes", fov_width=width), []


def _kept_configuration(folder):
    """Finds the configuration that a training copied into its folder."""
    own = folder / f"{folder.name}_configuration.txt"
    found = [own] if own.is_file() else sorted(folder.glob("[!.]*_configuration.txt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"The folder {folder} must hold one configuration, {own.name}, to be tested or trained "
            f"as an experiment. Found: {names}. Give a configuration file as the argument."
        )
    return found[0]


@contextlib.contextmanager
def _place(folder, log, is_first_host=True):
    """Makes the folder, and sends the output to the log if there is to be one."""
    if not is_first_host:
        yield
        return
    with writable_folder(Path(folder)), output_in(log) if log else contextlib.nullcontext():
        yield


def _read_command_line(step, default):
    words = {"training": "Trains", "testing": "Tests"}
    parser = argparse.ArgumentParser(
        description=f"{words[step]} the experiment that a configuration file describes."
    )
    parser.add_argument(
        "configuration",
        nargs="?",
        default=default,
        help="configuration file, or the folder of an experiment such as pretrained/vessels; "
        f"default: ./{default}",
    )
    parser.add_argument("--data", metavar="FOLDER", help="HDF5 files; replaces path_local")
    if step == "training":
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="start anew and replace an earlier training of the same name",
        )
    else:
        parser.add_argument(
            "--output",
            metavar="FOLDER",
            help="for the results; default: the experiment's folder, and results/<name>/ for one "
            "of pretrained/",
        )
        parser.add_argument(
            "--angle",
            type=float,
            metavar="DEGREES",
            help="that the field of view of these photographs covers; default: the training's",
        )
    return parser.parse_args()


def _load_script(name):
    with quietly():
        return importlib.import_module(name)
