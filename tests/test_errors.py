"""Tests of how a script ends when its user made a mistake."""

import pytest

from lib.errors import UserError, raise_if_any, run_script


def raising(error):
    def main():
        raise error

    return main


def test_one_problem_is_printed_without_a_traceback_and_gives_status_1(capsys):
    assert run_script(raising(UserError("The folder is missing."))) == 1
    assert capsys.readouterr().err == "\nERROR: The folder is missing.\n"


def test_several_problems_are_numbered(capsys):
    assert run_script(raising(UserError(["One thing.", "Another."]))) == 1
    assert capsys.readouterr().err == "\nERROR: 2 problems:\n  1. One thing.\n  2. Another.\n"


def test_success_gives_status_0(capsys):
    assert run_script(lambda: print("done")) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_gives_the_shells_status(capsys):
    assert run_script(raising(KeyboardInterrupt())) == 130
    assert "Stopped by Ctrl-C." in capsys.readouterr().err


def test_defect_of_the_project_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))


def test_problems_are_kept_one_by_one_and_joined_by_lines():
    assert UserError("one").problems == ["one"]
    assert str(UserError(["one", "two"])) == "one\ntwo"


def test_no_problem_raises_nothing():
    assert raise_if_any([]) is None
    with pytest.raises(UserError, match="^one\ntwo$"):
        raise_if_any(["one", "two"])
