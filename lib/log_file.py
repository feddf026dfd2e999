"""The log file of `nohup = True`: all output goes there, and a closed terminal stops nothing.

The original hides its errors there and exits with 0; here the exit status is the script's, and the
last lines of the log are shown when it failed.
"""

import contextlib
import os
import signal
import sys
import traceback

from lib.errors import Stopped, UserError, print_problems

LAST_LINES = 20


@contextlib.contextmanager
def output_in(log):
    """Sends all output, that of libraries too, to a log file, and outlives the terminal.

    An error is written to the log; then the log's last lines are shown where the user is.

    Args:
        log: path of the file; lines are added to it.
    Raises:
        UserError: if it cannot be written to.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    print(f"nohup = True: the output goes to {log}. To follow it: tail -f {log}", flush=True)
    terminal = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    _open_log(log)
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):  # the disk of the log may be full
            print_problems(error.problems)
        _redirect(terminal)
        raise
    except Stopped as error:
        with contextlib.suppress(OSError):
            print(f"\n{error}", flush=True)
        _redirect(terminal)
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _redirect(terminal)
        _show_end(log)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException:
        _redirect(terminal)
        raise
    _redirect(terminal)
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"Done; see {log}.", flush=True)


def _open_log(log):
    try:
        with open(log, "a", encoding="utf-8") as file:
            _redirect([file.fileno()] * 2)
    except OSError as error:  # of another user, on a shared server
        raise UserError(
            f"{log} cannot be written to: {error.strerror or error}. Remove it, choose another "
            "[experiment name] name, or set nohup = False."
        ) from error


def _redirect(descriptors):
    for stream, descriptor in zip((sys.stdout, sys.stderr), descriptors):
        with contextlib.suppress(OSError):
            stream.flush()
        os.dup2(descriptor, stream.fileno())
        if hasattr(stream, "reconfigure"):  # what is read as UTF-8 is written so
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _show_end(log):
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"The last lines of {log}:", file=sys.stderr)
    print("\n".join(f"  | {line}" for line in lines[-LAST_LINES:]), file=sys.stderr)
