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
    terminal = _Terminal()
    terminal.leave_for(log)
    try:
        yield
    except UserError as error:
        with contextlib.suppress(OSError):  # the disk of the log may be full
            print_problems(error.problems)
        terminal.come_back()
        raise
    except Stopped as error:
        with contextlib.suppress(OSError):
            print(f"\n{error}", flush=True)
        terminal.come_back()
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        terminal.come_back()
        _show_end(log)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException:
        terminal.come_back()
        raise
    terminal.come_back()
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"Done; see {log}.", flush=True)


class _Terminal:
    """Standard output and error as they were: the descriptors 1 and 2, and Python's streams.

    A notebook's streams have no descriptors, so they are replaced rather than redirected; what
    libraries print goes to the descriptors.
    """

    def __init__(self):
        self.streams = sys.stdout, sys.stderr
        self.descriptors = [os.dup(number) for number in (1, 2)]

    def leave_for(self, log):
        """Sends all output to the end of a file; a UserError if it cannot be written to."""
        try:
            with open(log, "ab") as file:
                _redirect([file.fileno()] * 2)
        except OSError as error:  # of another user, on a shared server
            self.come_back()
            raise UserError(
                f"{log} cannot be written to: {error.strerror or error}. Remove it, choose another "
                "[experiment name] name, or set nohup = False."
            ) from error
        options = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, **options) for number in (1, 2))

    def come_back(self):
        """Sends all output where it went before."""
        _redirect(self.descriptors)
        for descriptor in self.descriptors:
            os.close(descriptor)
        sys.stdout, sys.stderr = self.streams


def _redirect(descriptors):
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    for number, descriptor in zip((1, 2), descriptors):
        os.dup2(descriptor, number)


def _show_end(log):
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    print(f"The last lines of {log}:", file=sys.stderr)
    print("\n".join(f"  | {line}" for line in lines[-LAST_LINES:]), file=sys.stderr)
