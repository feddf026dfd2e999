"""What can go wrong while a script runs, at a chosen moment, and what must come out all the same.

All files are written through lib.files: opened beside their place, and flushed to the disk before
they are moved in. Each of both is a moment of a run.
"""

import os
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from tests.small_data import hashes, read_log, read_weights

FILLER = "filler"
OPEN, FLUSH = "open", "flush"


def at_moment(number, happen, moments=(OPEN, FLUSH), count_in=None):
    """Gives what makes something happen at a moment of a run; for fork(fault=...).

    Args:
        number: of the moment; 0 for the start, None for never.
        happen: function without arguments.
        moments: what counts: that a file was opened, that one was flushed.
        count_in: file that gets the number of moments, a letter each.
    Returns:
        function without arguments.
    """
    return partial(_install, number, happen, moments, count_in)


def _install(number, happen, moments, count_in):
    flush, count = os.fsync, 0

    def note(moment):
        nonlocal count
        if moment not in moments:
            return
        count += 1
        if count_in:
            with open(count_in, "r+") as file:
                file.seek(0, os.SEEK_END)
                file.write(moment[0])
        if count == number:
            happen()

    def flushing(descriptor):
        flush(descriptor)
        note(FLUSH)

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path, mode, _ = arguments
            is_beside = Path(os.fsdecode(path)).name.startswith(f".{os.getpid()}_")
            if (is_beside and mode and mode[0] == "w") or (mode and mode[0] == "a"):
                note(OPEN)

    os.fsync = flushing
    sys.addaudithook(watch)
    if number == 0:
        happen()


def send(number):
    """Gives what sends the process a signal."""
    return partial(_send, number)


def _send(number):
    if signal.getsignal(number) is signal.SIG_IGN:  # so a shell starts tests in the background
        signal.signal(number, signal.default_int_handler)
    os.kill(os.getpid(), number)


def halt(sign):
    """Gives what halts the process until a signal ends it, and makes a file as a sign of it."""
    return partial(_halt, sign)


def _halt(sign):
    Path(sign).touch()
    signal.pause()


def fill_disk(folder):
    """Gives what fills the disk of a folder."""
    return partial(_fill_disk, folder)


def _fill_disk(folder):
    space = os.statvfs(folder)
    number = space.f_bavail * space.f_frsize
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
