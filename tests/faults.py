"""What can go wrong while a script runs, at a chosen moment, and what must come out all the same.

All files are written through lib.files, which calls os.fsync once for each: these calls number the
moments of a run.
"""

import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from tests.small_data import hashes, read_log, read_weights

FILLER = "filler"


def at_file(number, happen, count_in=None):
    """Gives what makes something happen behind the writing of a file; for fork(fault=...).

    Args:
        number: of the file, 0 for the start; None for never.
        happen: function without arguments.
        count_in: file that gets the number of files that were written.
    Returns:
        function without arguments.
    """
    return partial(_install, number, happen, count_in)


def _install(number, happen, count_in):
    flush, count = os.fsync, 0

    def counting(descriptor):
        nonlocal count
        flush(descriptor)
        count += 1
        if count_in:
            Path(count_in).write_text(str(count))
        if count == number:
            happen()

    os.fsync = counting
    if number == 0:
        happen()


def send(number):
    """Gives what sends the process a signal."""
    return partial(_send, number)


def _send(number):
    os.kill(os.getpid(), number)


def fill_disk(folder, left):
    """Gives what fills the disk of a folder but for some bytes."""
    return partial(_fill_disk, folder, left)


def _fill_disk(folder, left):
    space = os.statvfs(folder)
    number = space.f_bavail * space.f_frsize - left
    with open(Path(folder) / FILLER, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, number))


def limit_files(num_bytes=1000):
    """Lets no file grow beyond a size: where no small disk can be made."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


def turn_clock_back(seconds=400 * 86400):
    """Sets the clock of this process back by more than a year."""
    now = time.time
    time.time = lambda: now() - seconds


def outcome(folder):
    """Gives all that must be the same however a run came about: {name: content}, no left-overs.

    Of weights the numbers count, of a log all but the seconds; reports and records tell of the
    time.
    """
    found = {}
    for name, content in hashes(folder).items():
        path = Path(folder) / name
        if name.endswith(".weights.h5"):
            content = {key: array.tobytes() for key, array in read_weights(path).items()}
        elif name.endswith("_log.csv"):
            content = read_log(path)
        elif name.endswith((".html", ".lock", ".nohup")):
            content = "there"
        found[name] = content
    return found


def differences(found, expected):
    """Lists the names whose content is not as expected."""
    return sorted(n for n in found.keys() | expected if found.get(n) != expected.get(n))


def require_whole(folder):
    """Requires that every HDF5 file that is in its place can be read to its end."""
    for path in Path(folder).rglob("[!.]*.h*5*"):
        with h5py.File(path) as file:
            file.visititems(lambda _, item: isinstance(item, h5py.Dataset) and np.array(item))
