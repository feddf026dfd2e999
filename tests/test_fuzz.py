"""The fuzzer itself: it finds what was put there for it, and a few cases of it are clean."""

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from lib.errors import UserError
from tests.fuzz.targets import TARGETS, Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place")


def raise_key_error(folder, output):
    raise KeyError("loss")


def refuse(folder, output):
    raise UserError("a is not as it should be. Do this.")


def climb(folder, output):
    (output / ".." / ".." / "climbed").write_text("x")


def change(folder, output):
    (folder / "a").write_bytes(b"changed")


@pytest.mark.parametrize(
    "read, finding",
    [
        (raise_key_error, "KeyError in test_fuzz.py, raise_key_error: 'loss'"),
        (climb, "a file was written outside of the output"),
        (change, "an input was changed"),
        (refuse, None),
        (lambda folder, output: (output / "a").write_text("x"), None),
    ],
)
def test_what_counts_as_a_finding(place, read, finding):
    assert place.attempt(read, {"a": b"content"}) == finding


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "weights"])
def test_some_cases_of_every_kind_have_no_finding(name, place):
    @seed(5)
    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name](place))
    def attempt(case):
        assert place.attempt(*case) is None

    attempt()
