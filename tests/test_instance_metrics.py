"""Scores of objects against literal implementations of their definitions."""

from itertools import permutations

import numpy as np
import pytest

from lib.instance_metrics import (
    THRESHOLDS,
    best_iou,
    count_overlaps,
    count_splits_and_merges,
    leave_out_unknown,
    match,
    none_found,
    seg,
    summarize,
)


def numbers(labels):
    return sorted(set(labels.ravel().tolist()) - {0})


def jaccard(one, other):
    return (one & other).sum() / (one | other).sum()


def literal_seg(truth, predicted):
    """The challenge's words, object by object."""
    scores = []
    for t in numbers(truth):
        reference, score = truth == t, 0.0
        for p in numbers(predicted):
            result = predicted == p
            if (reference & result).sum() > 0.5 * reference.sum():
                score = jaccard(reference, result)
        scores.append(score)
    return scores


def literal_pairs(truth, predicted, threshold):
    """StarDist's rule by trying every assignment: most pairs, then the highest sum of all IoUs."""
    iou = np.array(
        [[jaccard(truth == t, predicted == p) for p in numbers(predicted)] for t in numbers(truth)]
    ).reshape(len(numbers(truth)), len(numbers(predicted)))
    if iou.shape[0] > iou.shape[1]:
        iou = iou.T
    best = (0, 0.0, 0.0)
    for columns in permutations(range(iou.shape[1]), iou.shape[0]):
        assigned = iou[range(iou.shape[0]), columns]
        good = assigned[assigned >= threshold]
        best = max(best, (len(good), assigned.sum(), good.sum()))
    return best[0], best[2]


def scores_of(*pairs):
    return summarize([count_overlaps(*pair) for pair in pairs])


def random_pair(rng):
    """A label image and a prediction of it: moved, with objects lost, added, split and merged."""
    shape = tuple(rng.integers(8, 30, 2))
    places = rng.uniform((0, 0), shape, (rng.integers(1, 6), 2))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(rows - places[:, :1, None], columns - places[:, 1:, None])
    values = rng.choice(65_000, len(places), replace=False) + 1
    truth = np.where(distance.min(0) < rng.uniform(3, 9), values[distance.argmin(0)], 0)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    present = numbers(predicted)
    if present and rng.random() < 0.4:
        predicted[predicted == rng.choice(present)] = rng.choice([0, *present])
    if rng.random() < 0.4:
        row = rng.integers(shape[0])
        predicted[row:] = np.where(predicted[row:] > 0, predicted[row:] + 70_000, 0)
    keep = numbers(predicted)[:6]
    return truth, np.where(np.isin(predicted, keep), predicted, 0)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return [random_pair(rng) for _ in range(200)]


def test_seg_is_the_challenges_on_200_random_pairs(pairs):
    for truth, predicted in pairs:
        found = seg(count_overlaps(truth, predicted))
        np.testing.assert_allclose(found, literal_seg(truth, predicted), rtol=0, atol=1e-12)
    assert len({round(v, 6) for pair in pairs for v in literal_seg(*pair)}) > 50


@pytest.mark.parametrize("threshold", [0.2, *THRESHOLDS])
def test_pairs_are_stardists_on_200_random_pairs(pairs, threshold):
    for truth, predicted in pairs:
        overlaps = count_overlaps(truth, predicted)
        matched = match(overlaps, threshold)
        num_pairs, total = literal_pairs(truth, predicted, threshold)
        assert len(matched[0]) == num_pairs
        assert overlaps.iou_table[matched].sum() == pytest.approx(total)


def test_ap_and_means_are_pooled_over_images(pairs):
    scores = scores_of(*pairs)
    num_true = sum(len(numbers(truth)) for truth, _ in pairs)
    num_predicted = sum(len(numbers(predicted)) for _, predicted in pairs)
    assert (scores["num_true"], scores["num_predicted"]) == (num_true, num_predicted)
    for threshold in THRESHOLDS:
        tp = sum(literal_pairs(*pair, threshold)[0] for pair in pairs)
        fp, fn = num_predicted - tp, num_true - tp
        assert scores["ap"][f"{threshold:g}"] == pytest.approx(tp / (tp + fp + fn))
    assert scores["mean_ap"] == pytest.approx(np.mean(list(scores["ap"].values())))
    assert scores["seg"] == pytest.approx(np.mean([v for p in pairs for v in literal_seg(*p)]))
    found = [literal_pairs(*pair, 0.5) for pair in pairs]
    mean = sum(total for _, total in found) / sum(number for number, _ in found)
    assert scores["mean_matched_iou"] == pytest.approx(mean)
    assert scores["false"] == num_predicted - sum(number for number, _ in found)


def test_mean_iou_takes_the_best_object_of_all():
    for seed in range(20):
        truth, predicted = random_pair(np.random.default_rng(seed))
        expected = [
            max([jaccard(truth == t, predicted == p) for p in numbers(predicted)], default=0)
            for t in numbers(truth)
        ]
        np.testing.assert_allclose(best_iou(count_overlaps(truth, predicted)), expected)


def test_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0]])
    predicted = np.array([[0, 9, 9, 9, 9, 0, 7, 7, 0, 0]])
    # 1: covered by 3 of 4, 3 / 5; 2: by 2 of 4, which is not more than half.
    assert seg(count_overlaps(truth, predicted)).tolist() == [0.6, 0]
    assert best_iou(count_overlaps(truth, predicted)).tolist() == [0.6, 0.5]
    scores = scores_of((truth, predicted))
    assert scores["seg"] == 0.3 and scores["mean_iou"] == 0.55
    # IoUs .6 and .5: two pairs at .5, one at .6, none above; TP / (TP + FP + FN).
    assert scores["ap"] == {"0.5": 1, "0.6": 1 / 3, "0.7": 0, "0.8": 0, "0.9": 0}
    assert (scores["missed"], scores["false"]) == (0, 0)
    # Twice as large as what it covers, and a pixel more: found by SEG, no pair at .5.
    covering = scores_of((np.array([[1, 1, 0, 0, 0]]), np.array([[1, 1, 1, 1, 1]])))
    assert covering["seg"] == 0.4 and covering["ap"]["0.5"] == 0
    assert (covering["missed"], covering["false"]) == (1, 1)


def test_splits_and_merges_by_hand():
    truth = np.array([[1] * 6 + [0, 2, 2, 3, 3]])
    predicted = np.array([[1, 1, 2, 2, 2, 0, 0, 4, 4, 4, 4]])
    assert count_splits_and_merges(count_overlaps(truth, predicted)) == (1, 1)
    assert count_splits_and_merges(count_overlaps(predicted, truth)) == (1, 1)
    assert count_splits_and_merges(count_overlaps(truth, truth)) == (0, 0)


def test_perfect_empty_and_nothing_to_find(pairs):
    truths = [truth for truth, _ in pairs]
    perfect = scores_of(*((truth, truth * 3) for truth in truths))
    assert perfect["seg"] == perfect["mean_iou"] == perfect["mean_ap"] == 1
    assert perfect["mean_matched_iou"] == 1
    assert perfect["missed"] == perfect["false"] == perfect["splits"] == perfect["merges"] == 0
    empty = scores_of(*((truth, truth * 0) for truth in truths))
    assert empty["seg"] == empty["mean_iou"] == empty["mean_ap"] == empty["mean_matched_iou"] == 0
    assert empty["missed"] == empty["num_true"]
    nothing = scores_of((np.zeros((4, 4), int), np.zeros((4, 4), int)))
    assert nothing["seg"] is None and nothing["mean_ap"] == 1
    assert scores_of((np.zeros((4, 4), int), np.eye(4, dtype=int)))["mean_ap"] == 0


def test_none_is_found_only_where_there_is_one():
    nothing, one = np.zeros((8, 8), int), np.zeros((8, 8), int)
    one[2:5, 2:5] = 1
    of = {
        (name, other): none_found(summarize([count_overlaps(truth, predicted)]))
        for name, truth in (("nothing", nothing), ("one", one))
        for other, predicted in (("nothing", nothing), ("one", one))
    }
    assert [names for names, said in of.items() if said] == [("one", "nothing")]


def test_what_lies_in_the_unknown_is_not_scored():
    truth = np.zeros((8, 20), int)
    truth[1:7, 1:6] = 5
    is_unknown = np.zeros(truth.shape, bool)
    is_unknown[:, 10:] = True
    predicted = truth.copy()
    predicted[1:4, 12:18] = 9  # a cell in the unknown
    assert scores_of((truth, predicted))["false"] == 1
    known = leave_out_unknown(predicted, is_unknown)
    scores = scores_of((truth, known))
    assert scores["mean_ap"] == scores["seg"] == 1
    assert scores["false"] == 0 and scores["num_predicted"] == 1
    np.testing.assert_array_equal(leave_out_unknown(predicted, is_unknown & False), predicted)


def test_objects_at_the_rim_of_the_unknown_count_by_their_known_pixels():
    is_unknown = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0]], bool)
    predicted = np.array([[2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4]])
    # Of 3 half lies there, which is not more than half; of 4 five of six pixels.
    expected = [[2, 2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert leave_out_unknown(predicted, is_unknown).tolist() == expected


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"one shape. Received: \(2, 3\), \(3, 2\)"):
        count_overlaps(np.zeros((2, 3), int), np.zeros((3, 2), int))
