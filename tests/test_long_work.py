"""Long trainings: memory stays flat, no file stays open, and long histories are drawn quickly.

FAULT_EPOCHS makes the long training shorter than 1,500 epochs.
"""

import json
import os
import time

import psutil
import pytest

from lib.callbacks import TrainingRecorder, write_log
from lib.history import best_epoch, plateau_rate
from lib.plots import draw_loss_curves
from lib.report import loss_curve
from tests.tiny_training import NUM_TRAINING, configure, experiment_in, train

EPOCHS = int(os.environ.get("FAULT_EPOCHS", 1500))
MOST_GROWTH = 5 * 10**6  # bytes


# pytest keeps every warning: 13,500 of them would be the growth.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.faults
def test_memory_is_flat_and_no_file_stays_open(in_tmp_path, monkeypatch):
    process, noted = psutil.Process(), []
    end = TrainingRecorder.on_epoch_end

    def noting(recorder, *arguments, **options):
        end(recorder, *arguments, **options)
        noted.append((process.memory_info().rss, process.num_fds()))

    monkeypatch.setattr(TrainingRecorder, "on_epoch_end", noting)
    train(configure(num_epochs=EPOCHS, batch_size=NUM_TRAINING // 2), experiment_in("run"))
    first = min(100, EPOCHS // 2)
    memory, files = zip(*noted[first - 1 :])
    growth = memory[-1] - memory[0]
    print(f"{EPOCHS} epochs: {growth / 1e6:.1f} MB more after epoch {first}")
    assert growth < MOST_GROWTH
    assert files[-1] <= files[0]


def test_ten_thousand_epochs_are_read_and_drawn_in_a_second(tmp_path):
    rows = [
        {
            "epoch": n,
            "loss": 1 / n,
            "val_loss": 1.1 / n + n % 7 / 1e4,
            "accuracy": 0.9,
            "seconds": 1.5,
        }
        for n in range(1, 10_001)
    ]
    text = json.dumps(rows)
    draw_loss_curves(rows[:2], tmp_path / "curves.png")  # matplotlib looks for fonts once
    start = time.process_time()
    history = json.loads(text)
    best_epoch(history, "val_loss")
    plateau_rate(history, 0.1, best_by="val_loss", factor=0.5, patience=10)
    write_log(history, tmp_path / "log.csv")
    draw_loss_curves(history, tmp_path / "curves.png")
    loss_curve(history)
    assert time.process_time() - start < 1
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 10_001
