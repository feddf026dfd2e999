"""Reads damaged and malicious files of all kinds until the time is over, and counts findings.

    make fuzz [MINUTES=5]
    python -m tests.fuzz [--minutes 5] [--targets images,HDF5] [--seed 0] [--keep fuzz_findings]

A finding is an exception that is no message for the user, a crash, more than 60 seconds or 4 GB of
memory for one case, a file that is written outside of the output, or a changed input. The inputs of
the first three of each kind are kept. Cases are drawn by hypothesis; where atheris is installed,
half of the time it draws them by the lines of the project that they reach. Status 1 with findings.
"""

import argparse
import collections
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.work import note, work

LONGEST_CASE = 60  # seconds


# ---------------------------------------------------------------- all of them


class Worker:
    """A process that works on a target, watched from here."""

    context = multiprocessing.get_context("spawn")

    def __init__(self, target, folder, seconds, seed, has_atheris):
        self.target, self.folder, self.has_atheris = target, Path(folder), has_atheris
        self.end, self.seed = time.monotonic() + seconds, seed
        self.started, self.cases = (self.context.Value("d", 0) for _ in range(2))
        self.restart()

    def restart(self):
        """Starts the process for what is left of its time."""
        self.started.value = 0
        left = max(1, self.end - time.monotonic())
        words = (self.target, str(self.folder), left, self.seed, self.has_atheris)
        self.process = self.context.Process(target=work, args=(*words, self.started, self.cases))
        self.process.start()
        self.seed += 1

    def is_done(self):
        """Looks after the process: notes a hang and a crash, and starts anew behind them."""
        in_case = self.started.value and time.monotonic() - self.started.value
        if self.process.is_alive() and not in_case > LONGEST_CASE:
            if time.monotonic() > self.end + LONGEST_CASE + 60:
                self.process.kill()
            return False
        if self.process.is_alive():
            self.process.kill()
            self._note(f"a hang of over {LONGEST_CASE} s")
        elif self.process.exitcode and self.started.value:
            number = -self.process.exitcode
            names = {int(one): one.name for one in signal.Signals}
            self._note(f"a crash ({names.get(number, f'status {self.process.exitcode}')})")
        elif self.process.exitcode and not self.has_atheris:
            last = Path(f"{self.folder}.log").read_text(errors="replace").splitlines()[-1:]
            self._note(f"the fuzzer itself failed (status {self.process.exitcode}): {last}")
            return True
        self.process.join()
        if time.monotonic() > self.end - 2:
            return True
        self.restart()
        return False

    def _note(self, finding):
        self.process.join()
        note(self.folder, self.target, finding, self.folder / "case" / "in")


def main():
    """Reads the command line, shares the time among the targets, and prints what was found."""
    names = "configurations images TIFF HDF5 folders weights beside".split()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--targets", default=",".join(names), help="separated by commas")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 10**6)
    parser.add_argument("--keep", default="fuzz_findings", help="folder for inputs of findings")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count()))
    arguments = parser.parse_args()
    targets = arguments.targets.split(",")
    if unknown := set(targets) - set(names):
        parser.error(f"unknown targets: {', '.join(unknown)}")
    has_atheris = importlib.util.find_spec("atheris") is not None
    ways = [False, True] if has_atheris else [False]
    print(f"seed {arguments.seed}; {'hypothesis and atheris' if has_atheris else 'hypothesis'}")
    with tempfile.TemporaryDirectory() as folder:
        waiting = [(target, way) for target in targets for way in ways]
        seconds = 60 * arguments.minutes * arguments.jobs / len(waiting)
        done, running = [], []
        while waiting or running:
            while waiting and len(running) < arguments.jobs:
                target, way = waiting.pop(0)
                place = Path(folder) / f"{target}_{way:d}" / "place"
                place.parent.mkdir()
                running.append(Worker(target, place, seconds, arguments.seed, way))
            for worker in [worker for worker in running if worker.is_done()]:
                running.remove(worker)
                done.append(worker)
            time.sleep(0.2)
        return tell(done, Path(arguments.keep))


def tell(workers, keep):
    """Prints the numbers of cases and findings, and keeps the inputs; gives the exit status."""
    cases, findings, kinds = collections.Counter(), [], collections.Counter()
    for worker in workers:
        cases[worker.target] += int(worker.cases.value)
        path = Path(f"{worker.folder}.findings")
        lines = path.read_text().splitlines() if path.exists() else []
        for found in map(json.loads, lines):
            findings.append(found)
            if found["kept"]:
                place = keep / found["target"] / found["kept"]
                shutil.copytree(worker.folder.with_name("kept") / found["kept"], place)
                (place / "finding.txt").write_text(found["finding"] + "\n")
            kinds[found["target"], found["finding"].partition(":")[0]] += 1
    for target, number in cases.items():
        print(f"{target:16}{number:10,} cases")
    print(f"{'all':16}{sum(cases.values()):10,} cases, {len(findings):,} findings")
    for (target, kind), number in kinds.most_common():
        first = next(f["finding"] for f in findings if f["finding"].startswith(kind))
        print(f"  {target}: {number} x {first}")
    if findings:
        print(f"Their inputs are in {keep}.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
