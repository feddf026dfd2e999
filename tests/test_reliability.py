"""docs/RELIABILITY.md: every promise is held by a test that is there."""

import ast
import re

from lib.experiment import PROJECT

TEXT = (PROJECT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", TEXT)
    assert len(named) > 30
    missing = []
    for file, name in named:
        path = PROJECT / "tests" / file
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.parse("")
        tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        missing += [f"{file}::{name}"] * (name not in tests)
    assert missing == []


def test_every_promise_names_a_test():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not re.search(r"\| held by \|", row)]
    assert len(promises) > 20
    assert [row for row in promises if "::test_" not in row] == []
