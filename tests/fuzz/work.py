"""Tries cases of one target in a process of its own."""

import collections
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

ADDRESSES = 8 * 2**30  # bytes: what a case may ask for before it fails
MOST_HELD = 2**30  # bytes that a process may hold between two cases
KEPT = 3  # inputs of one kind
EXAMPLES = 500  # of hypothesis at a time: it remembers all that it has drawn


class _Over(BaseException):
    """The time of a worker is over."""


def work(target, folder, seconds, seed, has_atheris, started, cases):
    """Tries cases of a target until its time is over.

    Args:
        target: name of it.
        folder: Place of this process; findings are written to folder.findings, a JSON text a line.
        seconds: of time.
        seed: of the cases.
        has_atheris: whether atheris draws them.
        started: shared number, the moment when the case began; 0 between cases.
        cases: shared number of cases.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with open(f"{folder}.log", "a") as log:  # what libraries and atheris say
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    if has_atheris:
        import atheris

        with atheris.instrument_imports(include=["lib", "src", "prepare_datasets_folder"]):
            from tests.fuzz import targets
    else:
        from tests.fuzz import targets
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    if target == "weights":
        targets._network()  # before memory is limited: TensorFlow reserves addresses
    place = targets.Place(folder)
    _limit_addresses()
    latest = time.monotonic() + seconds
    known = collections.Counter()

    def attempt(case):
        if time.monotonic() > latest:
            if has_atheris:  # which looks at the clock by itself
                return
            raise _Over
        read, files = case
        started.value = time.monotonic()
        finding = place.attempt(read, files)
        started.value = 0
        cases.value += 1
        if finding:
            key = finding.partition(":")[0]
            known[key] += 1
            note(folder, target, finding, place.inputs if known[key] <= KEPT else None)
        if _status("VmRSS") > MOST_HELD:
            os._exit(0)  # and is started anew: atheris keeps arrays that the project compares

    options = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    test = options(given(targets.TARGETS[target](place))(attempt))
    if has_atheris:
        corpus = Path(folder).with_name("corpus")
        corpus.mkdir(exist_ok=True)
        words = [f"-max_total_time={int(seconds)}", "-timeout=600", "-rss_limit_mb=0"]
        words += [
            "-max_len=65536",
            "-verbosity=0",
            f"-seed={seed + 1}",
            f"-artifact_prefix={corpus}/",
            str(corpus),
        ]
        atheris.Setup([sys.argv[0], *words], test.hypothesis.fuzz_one_input)
        atheris.Fuzz()  # never comes back
    try:
        while True:
            seeded(seed)(test)()
            seed += 1_000_003
    except _Over:
        return


def _limit_addresses():
    limit = _status("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _status(name):
    """Gives a number of bytes from what Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def note(folder, target, finding, files):
    """Writes a finding to the list of its process, and keeps its inputs."""
    kept = None
    if files and Path(files).is_dir():
        kept = f"{Path(folder).name}_{time.monotonic_ns()}"
        shutil.copytree(files, Path(folder).with_name("kept") / kept)
    with open(f"{folder}.findings", "a") as file:
        file.write(json.dumps({"target": target, "finding": finding, "kept": kept}) + "\n")
