"""Tests of the log file of nohup = True where a script runs in a notebook or under pytest.

In a process of its own: test_mistakes.py.
"""

import contextlib
import io
import os
import signal
import sys

import pytest

from lib.errors import UserError
from lib.log_file import output_in


@contextlib.contextmanager
def notebook():
    """Streams as those of a notebook: they have no descriptor."""
    before = signal.getsignal(signal.SIGHUP) if hasattr(signal, "SIGHUP") else None
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield output, errors
        assert (sys.stdout, sys.stderr) == (output, errors), "they did not come back"
    if before is not None:
        signal.signal(signal.SIGHUP, before)


def test_streams_without_a_descriptor_go_to_the_log_and_come_back(tmp_path, capfd):
    log = tmp_path / "log"
    with notebook() as (output, _):
        for number in (1, 2):
            with output_in(log):
                print(f"Epoch {number}")
                print("a warning", file=sys.stderr)
                os.write(1, b"from C\n")
        os.write(1, b"after it\n")
    expected = "".join(f"Epoch {number}\na warning\nfrom C\n" for number in (1, 2))
    assert log.read_text() == expected
    shown = output.getvalue()
    assert shown.count("tail -f") == shown.count(f"Done; see {log}.") == 2
    assert capfd.readouterr().out == "after it\n"


def test_errors_are_in_the_log_and_a_defect_is_shown_in_the_notebook(tmp_path):
    log = tmp_path / "log"
    with notebook() as (_, errors):
        with pytest.raises(UserError), output_in(log):
            raise UserError("No such images.")
        assert log.read_text() == "\nERROR: No such images.\n"
        with pytest.raises(SystemExit), output_in(log):
            raise RuntimeError("a defect")
    assert "RuntimeError: a defect" in errors.getvalue()


def test_a_log_that_cannot_be_opened_leaves_the_streams(tmp_path):
    with notebook(), pytest.raises(UserError, match="cannot be written to: Is a directory"):
        with output_in(tmp_path):
            pass


def test_no_descriptor_is_left_open(tmp_path):
    def next_free():
        number = os.dup(1)
        os.close(number)
        return number

    before = next_free()
    with notebook():
        for log in (tmp_path / "log", tmp_path / "log", tmp_path):
            with contextlib.suppress(UserError), output_in(log):
                pass
    assert next_free() == before
