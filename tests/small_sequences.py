"""Small sequences of touching cells in the layout of the Cell Tracking Challenge."""

import numpy as np
from PIL import Image

from lib.phantom import touching_cells

SIDE = 96


def save(path, pixels):
    """Writes a TIFF as the challenge does, compressed with LZW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compression="tiff_lzw")


def write_sequence(folder, sequence, num_frames, *, seed=0, kind="GT", digits=3, without=()):
    """Writes frames and the truth of a sequence.

    Args:
        folder: holds the sequences.
        sequence: its name.
        num_frames: number of frames.
        seed: of the cells.
        kind: GT or ST.
        digits: of the numbers.
        without: numbers of frames that are not annotated.
    Returns:
        frames and objects, (num_frames, SIDE, SIDE) uint8 and uint16.
    """
    frames, objects = touching_cells(seed, SIDE, SIDE, num_frames)
    for number, (frame, truth) in enumerate(zip(frames, objects)):
        save(folder / sequence / f"t{number:0{digits}d}.tif", frame)
        if number not in without:
            name = f"man_seg{number:0{digits}d}.tif"
            save(folder / f"{sequence}_{kind}" / "SEG" / name, truth)
    return frames, objects


def write_hard_sequences(folder):
    """Writes 01 and 02 with what real ones may hold.

    Frames of 16 bits, numbers of 4 digits; of 01 frame 1 shows no object and frame 2 is not
    annotated, of 02 frame 1 is not. Objects have numbers up to 65,000.

    Returns:
        {sequence: objects (num_frames, SIDE, SIDE) uint16}.
    """
    written = {}
    for sequence, num_frames, without in (("01", 5, [2]), ("02", 3, [1])):
        frames, objects = write_sequence(
            folder, sequence, num_frames, seed=int(sequence), digits=4, without=without
        )
        if sequence == "01":
            objects[1] = 0
        table = np.linspace(0, 65_000, objects.max() + 1).astype(np.uint16)
        for number, frame in enumerate(frames):
            save(folder / sequence / f"t{number:04d}.tif", frame * np.uint16(150) + np.uint16(900))
            if number not in without:
                path = folder / f"{sequence}_GT/SEG/man_seg{number:04d}.tif"
                save(path, table[objects[number]])
        written[sequence] = table[objects]
    return written
