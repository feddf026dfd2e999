"""Measures this project's U-Net beside the same network in PyTorch and beside W-Net.

    pip install -c constraints.txt ".[torch]"
    python -m benchmarks.side_by_side [--rounds 3] [--python torch=/path/python]

One forward pass over an image of DRIVE's size (584 x 568), and training steps on 8 patches of 128 x
128 with Adam, all fed from memory, in float32 and in bfloat16. Each measurement is a process of its
own; they take turns, and the table gives the best of the rounds. Speed only: nothing is trained to
its end. Expected result: benchmarks/side_by_side.md, in about 3 minutes on two CPU cores.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGE, PATCHES, STEPS, PASSES = (584, 568), (8, 128, 128), 12, 5
WAYS = {
    "ours": "this project's U-Net, Keras on TensorFlow",
    "unet": "the same U-Net, PyTorch",
    "wnet": "W-Net, PyTorch",
}
PRECISIONS = ("float32", "bfloat16")


def main():
    """Reads the command line, measures in turns, writes the table; or measures one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default="", help="torch=INTERPRETER that has PyTorch")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks/side_by_side.md")
    parser.add_argument("--measure", nargs=2, help="WAY PRECISION: what a process of its own does")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    from benchmarks.run import describe_place
    from benchmarks.tables import table

    measured = take_turns(arguments.rounds, arguments.python.partition("=")[2] or sys.executable)
    header = ("network", "parameters", "precision", "s an image", "patches/s in training")
    text = (
        f"# Side by side\n\n`python -m benchmarks.side_by_side` {describe_place()}; torch "
        f"{measured['unet', 'float32'][0]['version']}.\n\nOne pass over {IMAGE[0]} x {IMAGE[1]} "
        f"pixels; training on batches of {PATCHES[0]} patches of {PATCHES[1]} x {PATCHES[2]}. Best "
        f"of {arguments.rounds} rounds.\n\n{table(header, rows(measured))}\n"
    )
    arguments.output.write_text(text)
    print(text)


def take_turns(rounds, python_of_torch):
    """Measures every way, one after the other, several times: {(way, precision): [answers]}."""
    measured = {(way, precision): [] for way in WAYS for precision in PRECISIONS}
    for _ in range(rounds):
        for (way, precision), answers in measured.items():
            python = sys.executable if way == "ours" else python_of_torch
            command = [python, "-m", "benchmarks.side_by_side", "--measure", way, precision]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
            answers.append(json.loads(done.stdout.splitlines()[-1]))
    return measured


def rows(measured):
    """Gives the rows of the table, with the ratios to this project's network."""
    best = {
        key: (min(a["image"] for a in answers), max(a["patches"] for a in answers))
        for key, answers in measured.items()
    }
    for (way, precision), answers in measured.items():
        (image, patches), (our_image, our_patches) = best[way, precision], best["ours", precision]
        seconds, rate = f"{image:.3f}", f"{patches:.0f}"
        if way != "ours":
            seconds += f" ({image / our_image:.2f} of ours)"
            rate += f" ({patches / our_patches:.2f} of ours)"
        yield WAYS[way], f"{answers[0]['parameters']:,}", precision, seconds, rate


def measure(way, precision):
    """Measures one way in this process.

    Returns:
        parameters, version of PyTorch (or None), image (seconds for one, the median of 5) and
        patches (that are trained in a second).
    """
    set_up = _ours if way == "ours" else _in_pytorch
    predict, train, about = set_up(way, precision)
    predict(), train(), train()  # compiles
    seconds = [_seconds(predict) for _ in range(PASSES)]
    taken = _seconds(lambda: [train() for _ in range(STEPS)])
    return {**about, "image": float(np.median(seconds)), "patches": STEPS * PATCHES[0] / taken}


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _arrays(channels):
    rng = np.random.default_rng(0)
    image, patches = (1, channels, *IMAGE), (PATCHES[0], channels, *PATCHES[1:])
    labels = rng.integers(0, 2, PATCHES)
    return rng.random(image, np.float32), rng.random(patches, np.float32), labels


def _ours(way, precision):
    """Sets up this project's network, as its training and testing do."""
    import keras

    from lib.devices import inner_data_format, start_computing
    from lib.unet import get_unet

    start_computing(0, precision == "bfloat16")
    image, patches, labels = _arrays(1)
    network = get_unet(1, None, None, data_format=inner_data_format())
    trained = get_unet(1, *PATCHES[1:], data_format=inner_data_format())
    trained.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    batch = patches, labels.reshape(len(labels), -1)
    about = {"parameters": network.count_params(), "version": None}
    return lambda: network.predict_on_batch(image), lambda: trained.train_on_batch(*batch), about


def _in_pytorch(way, precision):
    """Sets up a network in PyTorch."""
    import torch

    from benchmarks.pytorch_networks import UNet, WNet

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network, channels = (UNet(), 1) if way == "unet" else (WNet(), 3)
    network = network.to(memory_format=torch.channels_last)
    image, patches, labels = map(torch.from_numpy, _arrays(channels))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    loss_of = torch.nn.CrossEntropyLoss() if way == "unet" else torch.nn.BCEWithLogitsLoss()
    truth = labels if way == "unet" else labels[:, None].float()
    in_precision = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def predict():
        network.eval()
        with torch.inference_mode(), in_precision:
            return torch.sigmoid(network(image))

    def train():
        network.train()
        with in_precision:
            loss = loss_of(network(patches).float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    about = {"parameters": sum(p.numel() for p in network.parameters())}
    return predict, train, {**about, "version": torch.__version__}


if __name__ == "__main__":
    main()
