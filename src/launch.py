"""Starts the script that a configuration asks for, in the foreground or with a log file.

With `nohup = True` everything printed goes to <name>/<name>_training.nohup (_prediction.nohup), and
a closed terminal does not stop the work. The original hides its errors there and exits with 0;
here the exit status is the script's, and the last lines of the log are shown when it failed.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import traceback

from lib.backends import is_first_host, require_backend
from lib.configuration import PATTERNS, read_configuration
from lib.errors import UserError, print_problems, run_script
from lib.experiment import Experiment

SCRIPTS = {
    ("retina", "training"): "src.retinaNN_training",
    ("retina", "prediction"): "src.retinaNN_predict",
    ("membrane", "training"): "src.membraneNN_training",
    ("membrane", "prediction"): "src.membraneNN_predict",
}
LAST_LINES = 20


def launch(step, task=None):
    """Reads the command line, and runs one step of the configured experiment.

    Args:
        step: "training" or "prediction".
        task: where a script of src was started by itself, its task: it runs no other, and without
            a log file.
    Returns:
        exit status: 0, 1 for an error, 130 after Ctrl-C.
    """
    arguments = _read_command_line(step, PATTERNS[task or "retina"])
    # TensorFlow's own start-up lines say nothing that describe_devices does not say better.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return run_script(lambda: _run(step, task, arguments))


def _read_command_line(step, default):
    parser = argparse.ArgumentParser(
        description=f"Starts the {step} of the experiment that a configuration file describes."
    )
    parser.add_argument(
        "configuration",
        nargs="?",
        default=default,
        help=f"default: ./{default}",
    )
    if step == "training":
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="start anew and replace an earlier training of the same name",
        )
    return parser.parse_args()


def _run(step, task, arguments):
    require_backend()
    configuration = read_configuration(arguments.configuration, task)
    distribute = configuration.training_settings.distribute if step == "training" else "none"
    experiment = Experiment(configuration.experiment_name.name, is_first_host(distribute))
    if step == "training":
        settings, options = configuration.training_settings, {"overwrite": arguments.overwrite}
    else:
        settings, options = configuration.testing_settings, {}
        experiment.find_weights(settings.best_last)
    script = _load_script(SCRIPTS[configuration.task, step])
    with experiment.writable_folder():
        if settings.nohup and not task and experiment.is_first_host:
            with _output_in(experiment.file(f"{step}.nohup")):
                script.main(configuration, **options)
        else:
            script.main(configuration, **options)


def _load_script(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error}. Install the project's packages for {sys.executable}, or start the script "
            "with the Python that has them. If it is a backend of Keras, choose one that is there: "
            "KERAS_BACKEND=tensorflow."
        ) from error


@contextlib.contextmanager
def _output_in(log):
    """Sends all output, that of libraries too, to a log file, and outlives the terminal.

    An error is written to the log; then the log's last lines are shown where the user is.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    print(f"nohup = True: the output goes to {log}. To follow it: tail -f {log}", flush=True)
    kept = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    try:
        with open(log, "a", encoding="utf-8") as file:
            _redirect([file.fileno()] * 2)
    except OSError as error:  # of another user, on a shared server
        raise UserError(
            f"{log} cannot be written to: {error.strerror or error}. Remove it, choose another "
            "[experiment name] name, or set nohup = False."
        ) from error
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):  # the disk of the log may be full
            print_problems(error.problems)
        _redirect(kept)
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _redirect(kept)
        _show_end(log)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException:
        _redirect(kept)
        raise
    _redirect(kept)
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"Done; see {log}.", flush=True)


def _redirect(descriptors):
    for stream, descriptor in zip((sys.stdout, sys.stderr), descriptors):
        with contextlib.suppress(OSError):
            stream.flush()
        os.dup2(descriptor, stream.fileno())


def _show_end(log):
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"The last lines of {log}:", file=sys.stderr)
    print("\n".join(f"  | {line}" for line in lines[-LAST_LINES:]), file=sys.stderr)
