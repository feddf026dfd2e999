"""Makes the weights of finished experiments small enough to be shipped.

    python -m benchmarks.pack_weights results/eyes/eyes_last.weights.h5 ...

Rounds every weight to bfloat16 and compresses the file, in its place: less than half the size. A
network with mixed_precision = True sees its weights in bfloat16 anyway, so it predicts the same to
the last bit; without, its weights are apart by up to 0.4 %.
"""

import argparse
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

from lib.errors import UserError, run_script
from lib.files import atomic_write
from lib.weights import read_weights


def main():
    """Reads the command line, packs each file, says what it saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", nargs="+", type=Path, help="<name>_last.weights.h5")
    for path in parser.parse_args().weights:
        before, after = pack(path)
        print(f"{path}: {before / 1e6:.1f} -> {after / 1e6:.1f} MB")


def pack(path):
    """Rounds the weights in a file to bfloat16, kept as float32, and compresses them.

    Args:
        path: weights file that lib.weights.save_weights wrote.
    Returns:
        sizes of the file before and after, in bytes.
    Raises:
        UserError: if the file is not whole, does not tell its settings, holds an optimiser, which
            shall resume from what it has, or is of a training in float32, which sees the digits
            that rounding takes.
    """
    record = read_weights(path).record
    if "settings" not in record:
        raise UserError(f"{path} does not tell its settings; only weights of this project do.")
    if not record["settings"]["training_settings"]["mixed_precision"]:
        raise UserError(f"{path} was trained in float32; only mixed_precision = True is packed.")
    before = path.stat().st_size
    # Left in reverse: both files are closed before the new one takes the place of the old one.
    with (
        atomic_write(path) as beside,
        h5py.File(path, "r") as source,
        h5py.File(beside, "w") as target,
    ):
        if "optimizer" in source:
            raise UserError(
                f"{path} is of a training that may go on; only finished ones are packed."
            )
        target.attrs.update(source.attrs)

        def copy(name, item):
            is_weight = isinstance(item, h5py.Dataset) and item.dtype == np.float32 and item.ndim
            if isinstance(item, h5py.Group):
                target.require_group(name).attrs.update(item.attrs)
            elif is_weight:
                rounded = item[...].astype(ml_dtypes.bfloat16).astype(np.float32)
                # The two lower bytes of each number are 0 now; sorted together they take no room.
                target.create_dataset(
                    name, data=rounded, shuffle=True, compression="gzip", compression_opts=9
                ).attrs.update(item.attrs)
            else:
                source.copy(item, target, name)

        source.visititems(copy)
    return before, path.stat().st_size


if __name__ == "__main__":
    raise SystemExit(run_script(main))
