"""Tests of what is said while long work runs."""

import pytest

from lib import progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (59 * 60 + 29, "59 min"),
        (59 * 60 + 31, "1 h 0 min"),
        (3 * 3600 + 20 * 60, "3 h 20 min"),
        (47 * 3600, "47 h 0 min"),
        (52 * 3600, "2 d 4 h"),
    ],
)
def test_duration(seconds, words):
    assert progress.duration(seconds) == words


def test_log_file_gets_a_line_a_minute_with_the_time_left(monkeypatch, capsys):
    # Started at 0; 10 of 40 done after 30 s (silent), 20 of 40 after 61 s: 61 s are left.
    clock = iter([0, 30, 61, 62])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    shown = progress.Progress(1000)
    shown.add(250)
    shown.add(250)
    assert capsys.readouterr().out == "500 of 1,000 predicted, 61 s left\n"
    shown.finish()
    assert capsys.readouterr().out == "Predicted in 62 s.\n"


def test_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    shown = progress.Progress(4)
    shown.add(1)
    shown.add(2)
    assert shown.bar._seen_so_far == 3
