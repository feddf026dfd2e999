"""Objects linked from frame to frame, and the challenge's form of results."""

import numpy as np
import pytest
from PIL import Image

from lib.errors import UserError
from lib.results import Results
from lib.tracks import link_tracks, save_sequence, split_id


def rows(*lines):
    return [np.array([line]) for line in lines]


def test_ids_tell_sequence_and_number_as_written():
    assert split_id("01_000") == ("01", "000")
    assert split_id("my_cells_1234") == ("my_cells", "1234")
    assert split_id("cell7") == ("images", "cell7")


def test_objects_go_on_where_they_overlap_most():
    frames = rows([1, 1, 1, 0, 2, 2, 0], [0, 5, 5, 3, 3, 3, 0], [0, 1, 1, 1, 0, 0, 2])
    tracked, tracks = link_tracks([4, 5, 6], frames)
    assert [one.tolist() for one in tracked] == [
        [[1, 1, 1, 0, 2, 2, 0]],
        [[0, 1, 1, 2, 2, 2, 0]],
        [[0, 1, 1, 1, 0, 0, 3]],
    ]
    assert tracks == [(1, 4, 6), (2, 4, 5), (3, 6, 6)]


def test_of_two_that_chose_one_the_larger_overlap_wins():
    tracked, tracks = link_tracks([0, 1], rows([7, 7, 7, 7, 7], [1, 1, 0, 2, 2]))
    assert len(tracks) == 2, "a tie is decided, not doubled"
    tracked, tracks = link_tracks([0, 1], rows([7, 7, 7, 7, 7], [1, 0, 2, 2, 2]))
    assert tracked[1].tolist() == [[2, 0, 1, 1, 1]]
    assert tracks == [(1, 0, 1), (2, 1, 1)]


def test_an_object_goes_on_in_its_best_even_if_that_shares_more_with_another():
    # 1 goes on as 3, of which 2 has no pixel; 4 shares more with 1 than with 2.
    tracked, tracks = link_tracks([0, 1], rows([1] * 7 + [2], [3] * 4 + [4] * 4))
    assert tracked[1].tolist() == [[1] * 4 + [2] * 4]
    assert tracks == [(1, 0, 1), (2, 0, 1)]


def test_tracks_begin_anew_where_a_frame_is_missing_or_empty():
    frame = np.array([[1, 1, 0]])
    assert link_tracks([3, 5], [frame, frame])[1] == [(1, 3, 3), (2, 5, 5)]
    assert link_tracks([3, 4, 5], [frame, 0 * frame, frame])[1] == [(1, 3, 3), (2, 5, 5)]


def test_tracks_of_an_object_do_not_overlap_in_time():
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 5, (6, 6)), np.ones((3, 3), int)) for _ in range(6)]
    tracked, tracks = link_tracks(range(6), frames)
    for number, one in enumerate(tracked):
        present = set(np.unique(one[one > 0]).tolist())
        assert present == {track for track, begin, end in tracks if begin <= number <= end}
        assert ((one > 0) == (frames[number] > 0)).all()
        pairs = set(zip(one.ravel().tolist(), frames[number].ravel().tolist()))
        assert len(pairs) == len(np.unique(one)) == len(np.unique(frames[number]))


def test_sequence_is_saved_with_its_numbers(tmp_path):
    results = Results(tmp_path, "x")
    frames = [np.array([[0, 1], [300, 0]])] * 2
    save_sequence(results, "01", ["007", "008"], frames, [(1, 7, 8), (300, 7, 8)])
    assert (tmp_path / "01_RES/res_track.txt").read_text() == "1 7 8 0\n300 7 8 0\n"
    with Image.open(tmp_path / "01_RES/mask007.tif") as mask:
        pixels = np.asarray(mask)
    assert pixels.dtype == np.uint16 and pixels.tolist() == [[0, 1], [300, 0]]
    results.remove()
    assert not list(tmp_path.rglob("*.tif")) and not list(tmp_path.rglob("*.txt"))


def test_more_tracks_than_16_bits_are_refused(tmp_path):
    with pytest.raises(UserError, match="70,000 tracks; the challenge's form counts to 65,535"):
        save_sequence(Results(tmp_path, "x"), "01", ["000"], [np.array([[70_000]])], None)
    assert not list(tmp_path.iterdir())
