"""How far long work has come, and how long the rest will take."""

import sys
import time

import keras


class Progress:
    """Shows how much is predicted and the time left: a bar on a terminal, else a line a minute.

    Args:
        total: units (patches or images) to come.
    """

    SECONDS_BETWEEN_LINES = 60

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.start = self.last_line = time.monotonic()
        self.bar = keras.utils.Progbar(total) if sys.stdout.isatty() else None

    def add(self, number):
        """Counts further units as done."""
        self.done += number
        if self.bar:
            self.bar.update(self.done)
            return
        now = time.monotonic()
        if now - self.last_line > self.SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = (now - self.start) / self.done * (self.total - self.done)
            print(f"{self.done:,} of {self.total:,} predicted, {duration(left)} left", flush=True)

    def finish(self):
        """Tells the time it all took."""
        print(f"Predicted in {duration(time.monotonic() - self.start)}.", flush=True)


def duration(seconds):
    """Words a duration: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
