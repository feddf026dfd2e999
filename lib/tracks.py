"""Objects followed through the frames of a sequence, and the result form of the challenge.

Cell Tracking Challenge, "Naming and file content conventions": a folder <sequence>_RES holds
mask000.tif, ... (16 bits, the number of its track on every object) and res_track.txt, a line
`track begin end parent` for each track, in numbers of frames; parent 0 for none.
"""

import re

import numpy as np
from PIL import Image

from lib.errors import UserError
from lib.files import atomic_write
from lib.instance_metrics import count_overlaps

MOST_TRACKS = 65_535
_NUMBERED = re.compile(r"(.+)_(\d{3,4})")


def split_id(name):
    """Splits the id of a frame into sequence and number.

    Args:
        name: 01_000; an id of another form (pictures of one's own) has no number.
    Returns:
        (sequence, number as written): ("01", "000"); ("images", name) where there is no number.
    """
    match = _NUMBERED.fullmatch(name)
    return match.groups() if match else ("images", name)


def link_tracks(numbers, frames):
    """Links objects of consecutive frames by their largest overlap.

    An object goes on as the object of the next frame with which it shares the most pixels; of
    several that chose one, the largest overlap wins, and the others begin tracks of their own.
    Divisions are not recognised: every parent is 0.

    Args:
        numbers: whole numbers of the frames, rising; where one is missing all tracks begin anew.
        frames: label image (H, W) of each, 0 is background.
    Returns:
        label images of int32 in which every object has the number of its track, from 1; and the
        tracks, a list of (track, begin, end).
    """
    tracked, spans, before = [], {}, None
    for number, frame in zip(numbers, frames):
        is_next = before is not None and number == before + 1
        linked = _links(tracked[-1], frame) if is_next else {}
        table = np.zeros(int(frame.max(initial=0)) + 1, np.int32)
        for label in np.unique(frame[frame > 0]):
            track = linked.get(label, len(spans) + 1)
            table[label] = track
            spans[track] = (spans.get(track, (number,))[0], number)
        tracked.append(table[frame])
        before = number
    return tracked, [(track, *span) for track, span in spans.items()]


def _links(earlier, later):
    """Gives {number in the later frame: track in the earlier one}, one to one."""
    tracks, labels = (np.unique(frame[frame > 0]) for frame in (earlier, later))
    overlaps = count_overlaps(earlier, later)
    links, taken = {}, set()
    for pair in np.argsort(-overlaps.shared, kind="stable"):
        track, label = tracks[overlaps.true[pair]], labels[overlaps.predicted[pair]]
        if track not in taken:  # each track looks at the one with the most of its pixels alone
            taken.add(track)
            links.setdefault(int(label), int(track))
    return links


def save_sequence(results, sequence, names, frames, tracks):
    """Saves a sequence in the challenge's form.

    Args:
        results: lib.results.Results.
        sequence: its name, such as 01.
        names: number of each frame as written, which the file keeps: 000.
        frames: label images (H, W) of the tracks.
        tracks: as link_tracks gives them; None for pictures that are no sequence.
    Raises:
        UserError: for more tracks than 16 bits count.
    """
    most = max(int(frame.max(initial=0)) for frame in frames)
    if most > MOST_TRACKS:
        raise UserError(
            f"Sequence {sequence} has {most:,} tracks; the challenge's form counts to "
            f"{MOST_TRACKS:,}. Raise [testing settings] smallest_object or threshold."
        )
    for name, frame in zip(names, frames):
        with atomic_write(results.file(f"{sequence}_RES/mask{name}.tif")) as beside:
            picture = Image.fromarray(frame.astype(np.uint16))
            picture.save(beside, "TIFF", compression="tiff_adobe_deflate")
    if tracks is not None:
        lines = "".join(f"{track} {begin} {end} 0\n" for track, begin, end in tracks)
        with atomic_write(results.file(f"{sequence}_RES/res_track.txt")) as beside:
            beside.write_text(lines, encoding="ascii")
