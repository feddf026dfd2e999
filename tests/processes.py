"""Runs the scripts of the repository, or code, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

REPOSITORY = Path(__file__).resolve().parents[1]
# Longest a script may take before a test calls it stuck; the machine may be busy.
TIMEOUT = 300


def start(*words, cwd, output=None, **changes):
    """Starts Python in a folder without waiting, on the CPU.

    Args:
        words: a script of the repository and its arguments, or -c and code, or -m and a module;
            code finds lib, a script must find it by itself.
        cwd: the folder.
        output: file for all that is printed; None keeps it for `finish`.
        changes: of the environment.
    Returns:
        subprocess.Popen.
    """
    first, *others = map(str, words)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1", **changes}
    if first.endswith(".py"):
        first = str(REPOSITORY / first)
    else:
        environment["PYTHONPATH"] = str(REPOSITORY)

    def popen(stdout):
        return subprocess.Popen(
            [sys.executable, first, *others],
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    if output is None:
        return popen(subprocess.PIPE)
    with open(output, "w") as file:
        return popen(file)


def finish(process):
    """Waits for a process; gives its returncode and the output, all that it printed."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return SimpleNamespace(returncode=process.returncode, output=output)


def run(*words, cwd, **changes):
    """Runs Python in a folder to its end; see start and finish."""
    return finish(start(*words, cwd=cwd, **changes))
