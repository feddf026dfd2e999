"""What a script says, and how it ends, when its user made a mistake.

Imports nothing but the standard library: what it says where packages are missing can be said.
"""

import contextlib
import importlib.util
import os
import signal
import sys

_PACKAGES = tuple("numpy h5py keras PIL cv2 scipy skimage tifffile jinja2 roifile".split())
_OWN = ("lib", "src", "benchmarks", "demo")
BACKENDS = ("tensorflow", "jax", "torch", "openvino")


class UserError(Exception):
    """A mistake that the user can fix: all problems found, each one readable by itself.

    Args:
        problems: one message or a list of messages. Each says what was expected, what was found
            and what to do, and names the file, or the section and key.
        leave_at_once: whether the process must end without tidying up: HDF5 crashes when it closes
            a file that it could not write.
    """

    def __init__(self, problems, leave_at_once=False):
        self.leave_at_once = leave_at_once
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Stopped(Exception):
    """The end of a script that was told to stop, and has saved its work.

    Args:
        message: why it stopped, and how to resume.
        status: exit status.
    """

    def __init__(self, message, status):
        self.status = status
        super().__init__(message)


def raise_if_any(problems):
    """Raises one UserError that lists all problems; does nothing for an empty list."""
    if problems:
        raise UserError(problems)


def counted(problems, folder=None, most=5):
    """Keeps the first problems of a kind, or of a folder, and counts the others."""
    more, place = len(problems) - most, f"{folder}: " if folder else ""
    if more <= 0:
        return problems
    return [*problems[:most], f"{place}{more} more files have such problems."]


def missing_package(error):
    """Words that a package of the project is not installed.

    Args:
        error: the ModuleNotFoundError.
    Returns:
        UserError, to be raised.
    Raises:
        ModuleNotFoundError: the error itself, if a module of the project is missing: a defect.
    """
    name = (error.name or str(error)).partition(".")[0]
    if name in _OWN:
        raise error
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    backend = ", or choose a backend of Keras that is there: KERAS_BACKEND=tensorflow"
    return UserError(
        f"{sys.executable} lacks {', '.join(dict.fromkeys([*missing, name]))}. Start the scripts "
        "with the Python that has the project's packages: `make demo` installs them into .venv, "
        f"then `source .venv/bin/activate`{backend if name in BACKENDS else ''}."
    )


@contextlib.contextmanager
def tell_missing_packages():
    """Ends a script whose imports, the body of this `with`, lack a package: status 1, no traceback.

    Raises:
        SystemExit: after the message.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        print_problems(missing_package(error).problems)
        raise SystemExit(1) from None


def run_script(main):
    """Runs a script's main function and gives its exit status.

    A user's mistake ends with status 1 and its messages on standard error, without a traceback; so
    does a package that is not installed. Every other exception is a defect and keeps its traceback.

    Args:
        main: function without arguments.
    Returns:
        0; 1 after a UserError, or without the rights to a file; 130 after Ctrl-C and 143 after
        SIGTERM (the shell's numbers for them); the status of Stopped.
    """
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(AttributeError):  # a stream of another kind, in tests
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be UTF-8
    try:
        main()
    except UserError as error:
        print_problems(error.problems)
        if error.leave_at_once:  # while the error keeps the file from being closed
            sys.stderr.flush()
            os._exit(1)
        return 1
    except ModuleNotFoundError as error:
        print_problems(missing_package(error).problems)
        return 1
    except MemoryError as error:
        advice = "Close other programs, or take smaller images, tiles or batches."
        words = f"The memory that is free is too small: {error or 'out of memory'}. {advice}"
        print_problems([words])
        return 1
    except PermissionError as error:
        if error.filename is None:
            raise
        words = f"{os.fsdecode(error.filename)} may not be read or written: {error.strerror}."
        print_problems([f"{words} Ask for the rights to it, or take a copy of your own."])
        return 1
    except Stopped as error:
        print(f"\n{error}", flush=True)
        return error.status
    except KeyboardInterrupt:
        print("\nStopped by Ctrl-C.", file=sys.stderr)
        return 130
    return 0


def _leave(number, frame):
    """Ends the script like an exception, so that nothing half-written stays behind."""
    raise SystemExit(128 + number)


def print_problems(problems):
    """Prints the problems of a UserError to standard error, numbered where there are several."""
    sys.stdout.flush()
    if len(problems) == 1:
        print(f"\nERROR: {problems[0]}", file=sys.stderr)
        return
    print(f"\nERROR: {len(problems)} problems:", file=sys.stderr)
    for number, problem in enumerate(problems, start=1):
        print(f"  {number}. {problem}", file=sys.stderr)
