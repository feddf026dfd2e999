"""The house itself: who imports whom, how long the stories are, and what two tasks share."""

import ast
from itertools import product
from pathlib import Path

import pytest

from src.tasks import TASKS

REPOSITORY = Path(__file__).resolve().parents[1]
LIB, SRC = (sorted((REPOSITORY / name).glob("*.py")) for name in ("lib", "src"))
SCRIPTS = sorted(REPOSITORY.glob("*.py"))
STORIES = [path for path in SRC if "NN_" in path.name]
LONGEST_MAIN, LONGEST_EQUAL_RUN = 25, 5


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.name)


def is_start(node):
    """Tells whether a statement is `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imported(path):
    """Gives the modules that a file imports, wherever it does: src.tasks, lib.files, keras.

    What it does where it is started as a script (if __name__ == "__main__") is left out.
    """
    modules = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not is_start(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= names if node.module in ("src", "lib") else {node.module}
    return modules


def reached(path):
    """Gives all that is loaded when a file is: imports of imports, as far as they are ours.

    Those within functions count too, though they are loaded later.
    """
    found, waiting = set(), [path]
    while waiting:
        for module in imported(waiting.pop()) - found:
            found.add(module)
            file = REPOSITORY / f"{module.replace('.', '/')}.py"
            if file.is_file():
                waiting.append(file)
    return found


def task_of(path):
    """Gives the task whose file this is; None for those of all tasks."""
    found = [name for name in TASKS if path.name.startswith((f"{name}NN_", f"{name}_task"))]
    return found[0] if found else None


def packages(modules):
    return {module.partition(".")[0] for module in modules}


# ---------------------------------------------------------------- who imports whom


@named(LIB)
def test_lib_knows_no_task(path):
    assert not packages(imported(path)) & {"src", "tests", "benchmarks"}


@named([path for path in SRC if path.stem == "tasks" or path.stem.endswith("_task")])
def test_what_is_read_before_the_backend_is_chosen_loads_no_keras(path):
    assert not packages(reached(path)) & {"keras", "tensorflow", "jax", "torch", "openvino"}


@named([path for path in SRC if task_of(path)])
def test_no_task_imports_another_one(path):
    imports = {module for module in imported(path) if module.startswith("src.")}
    own = task_of(path)
    assert [name for name in imports if not name.startswith((f"src.{own}NN_", f"src.{own}_"))] == []


@named([path for path in SRC if path.stem.endswith("_task")])
def test_the_data_of_a_task_know_no_story(path):
    assert not [module for module in imported(path) if module.startswith("src.")]


@named([path for path in STORIES if path.stem.endswith("_training")])
def test_a_training_knows_no_testing(path):
    assert not [module for module in reached(path) if module.endswith("NN_predict")]


@named([*LIB, *SRC, *SCRIPTS])
def test_tensorflow_is_imported_where_devices_are_set_up_and_nowhere_else(path):
    if path == REPOSITORY / "lib" / "devices.py":
        assert "tensorflow" in packages(imported(path))
    else:
        assert "tensorflow" not in packages(imported(path))


def test_lib_has_no_circles():
    for path in LIB:
        assert f"lib.{path.stem}" not in reached(path)


# ---------------------------------------------------------------- how the stories are told


@named(STORIES)
def test_the_main_of_a_story_is_short(path):
    functions = ast.parse(path.read_text(encoding="utf-8")).body
    (main,) = (node for node in functions if getattr(node, "name", None) == "main")
    first = main.body[1] if ast.get_docstring(main) else main.body[0]
    assert main.end_lineno - first.lineno + 1 <= LONGEST_MAIN


def test_every_task_has_its_stories():
    modules = {module for task in TASKS.values() for module in (task.training, task.testing)}
    assert modules == {f"src.{path.stem}" for path in STORIES}


def longest_equal_run(first, second):
    """Gives the lines of the longest run that two files share, without indents and empty lines."""
    one, other = (
        [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for path in (first, second)
    )
    best, lengths = [], {}
    for i, line in enumerate(one):
        lengths = {j: lengths.get(j - 1, 0) + 1 for j, same in enumerate(other) if same == line}
        longest = max(lengths.values(), default=0)
        if longest > len(best):
            best = one[i - longest + 1 : i + 1]
    return best


PAIRS = [(a, b) for a, b in product(STORIES, STORIES) if task_of(a) < task_of(b)]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: " ".join(path.stem for path in pair))
def test_no_two_tasks_tell_the_same_lines(pair):
    run = longest_equal_run(*pair)
    assert len(run) <= LONGEST_EQUAL_RUN, "\n".join(run)


def test_the_longest_run_is_found(tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("a\nb\n\n  c\nd\na\n")
    second.write_text("x\nb\nc\n    d\ny\na\nb\n")
    assert longest_equal_run(first, second) == ["b", "c", "d"]
