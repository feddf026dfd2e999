"""What is installed: every package has its reason, is used, and can be had for every Python."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from lib.experiment import PROJECT

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# Parts of other packages, which pin their versions.
OF_OTHERS = {"ml_dtypes", "efficientnet_lite_pytorch", "packaging"}
OWN = {"lib", "src", "tests", "benchmarks", "demo"}


def rows():
    """Reads the table of docs/DEPENDENCIES.md: lists of five texts."""
    lines = (PROJECT / "docs" / "DEPENDENCIES.md").read_text(encoding="utf-8").splitlines()
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    return found[2:]


def wanted():
    """Reads pyproject.toml: {package: set of extras, "" for always}; tomllib is of Python 3.11."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    always = text.partition("\ndependencies = [")[2].partition("]\n")[0]
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    found = {name: {""} for name in re.findall(r'"([\w-]+)', always)}
    for extra, packages in re.findall(r"^(\w+) = \[(.*)\]$", extras, re.MULTILINE):
        for name in re.findall(r'"([\w-]+)', packages):
            found.setdefault(name, set()).add(extra)
    return found


def imported():
    """Lists the packages of others that the code imports, in strings of tests too."""
    names = set()
    for pattern in (
        "*.py",
        "lib/*.py",
        "src/*.py",
        "demo/*.py",
        "benchmarks/*.py",
        "tests/**/*.py",
    ):
        for path in PROJECT.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add(node.module.partition(".")[0])
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                    "import_module",
                    "importorskip",
                ):
                    words = [a.value for a in node.args if isinstance(a, ast.Constant)]
                    names |= {word.partition(".")[0] for word in words}
    scripts = {path.stem for path in PROJECT.glob("*.py")}
    return names - set(sys.stdlib_module_names) - OWN - scripts - OF_OTHERS


def test_every_package_has_a_row_with_its_extras_a_reason_and_a_licence():
    expected = wanted()
    assert len(expected) > 25
    table = {row[0]: row for row in rows()}
    assert table.keys() == expected.keys()
    for name, (_, _, extras, reason, licence) in table.items():
        listed = {extra.strip() for extra in extras.split(",")}
        assert listed == expected[name] - {"gpu"}, name
        assert reason and licence, name


def test_every_package_is_imported_or_says_why_not():
    modules = {row[1] for row in rows()} - {"not imported"}
    assert modules == imported()


def test_licences_are_those_of_the_installed_packages():
    for name, _, _, _, licence in rows():
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        told = f"{metadata.get('License-Expression')} {metadata.get('License')}"
        told += " ".join(metadata.get_all("Classifier", []))
        if told == "None None":  # atheris brings the text alone
            files = importlib.metadata.files(name)
            told = " ".join(file.read_text() for file in files if file.stem.upper() == "LICENSE")
        word = {"PSF": "Python Software Foundation"}.get(licence, licence.partition("-")[0])
        assert word in told, name


def constraints_of(python):
    """Lists the constraints that hold for a Python: pip asks the one that it runs on itself."""
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [Requirement(line) for line in lines if line]
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return [f"{one.name}{one.specifier}" for one in found if holds(one.marker, environment)]


def holds(marker, environment):
    return marker is None or marker.evaluate(environment)


def test_constraints_name_a_package_once_for_every_python():
    for python in PYTHONS:
        names = [re.match(r"[\w.-]+", line)[0] for line in constraints_of(python)]
        assert len(names) == len(set(names)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_can_be_had_for_every_python(python, tmp_path):
    """Asks pip which files it would install on Linux; nothing is installed.

    It finds wheels for another Python, but asks itself what they require of Python.
    """
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("\n".join(constraints_of(python)))
    report = tmp_path / "report.json"
    options = ["--dry-run", "--quiet", "--only-binary=:all:", "--python-version", python]
    options += ["--ignore-requires-python", "--report", str(report)]
    options += ["--target", str(tmp_path), "--constraint", str(constraints)]
    packages = [name for name, extras in wanted().items() if extras & {"", "dev"}]
    command = [sys.executable, "-m", "pip", "install", *options, *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if "Could not find a version" not in done.stderr and "Connection" in done.stderr:
        pytest.skip("no index of packages can be reached")
    assert done.returncode == 0, done.stderr
    metadata = [found["metadata"] for found in json.loads(report.read_text())["install"]]
    assert len(metadata) > 40
    for one in metadata:
        assert SpecifierSet(one.get("requires_python", "")).contains(f"{python}.9"), one["name"]
