"""What a newcomer sees first: the start of the demonstration's training."""

import signal
import sys

from demo import prepare_datasets_phantom
from tests.processes import REPOSITORY, require_quiet, start, wait_until

SMALL = ["--num-training", "2", "--num-test", "1", "--num-slices", "1"]
SIZE = ["--height", "96", "--width", "96"]


def test_the_demonstration_says_little_up_to_its_first_batches(in_tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", *SMALL, *SIZE])
    prepare_datasets_phantom.main()
    output = in_tmp_path / "output"
    configuration = REPOSITORY / "demo" / "vessels.txt"
    process = start("run_training.py", configuration, cwd=in_tmp_path, output=output)
    wait_until(lambda: "ms a batch" in output.read_text(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    told, _, _ = output.read_text().partition("Stopped by SIGTERM")
    require_quiet(told.strip().splitlines(), "Keras ")
