from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from math import nan

import numpy as np
import pytest
from geometry import SHAPES, Box, paint, random_labels, random_mask
from scipy import ndimage

from nnunet_instance_trainers.evaluation import Counts, Detection, Rule, detect

EMPTY = np.zeros((4, 5), np.int64)
RULES = [Rule(), Rule("iou", 0.5), Rule("iou", 0.1), Rule("dice", 0.2)]
EDGES = np.array([0.004, 0.012])  # mL, where a voxel is 0.001 mL


def random_pair(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Instances and a mask that finds some of them well, some badly, and invents others."""
    instances = random_labels(shape, 6, seed, batch=1)[0].numpy()
    others = random_labels(shape, 4, seed + 1000, batch=1)[0].numpy()
    return instances, (instances % 2 == 1) ^ (others > 0)


# --- the same, object by object ---------------------------------------------------------------------------


class Plain:
    """Every number of a detection by loops over masks of objects."""

    def __init__(self, instances: np.ndarray, prediction: np.ndarray, rule: Rule) -> None:
        components, m = ndimage.label(prediction > 0, np.ones((3,) * prediction.ndim))
        self.targets = [instances == i for i in np.unique(instances[instances > 0])]
        self.parts = [components == j for j in range(1, m + 1)]
        self.foregrounds = instances > 0, prediction > 0
        self.iou50 = self.assign("iou", 0.5)
        self.matched = self.iou50 if rule.match == "overlap" else self.assign(rule.match, rule.threshold)
        meeting = [(i, j) for i, t in enumerate(self.targets) for j, c in enumerate(self.parts) if (t & c).any()]
        self.counted = meeting if rule.match == "overlap" else self.matched

    def quality(self, i: int, j: int, match: str) -> float:
        t, c = self.targets[i], self.parts[j]
        return (t & c).sum() / (t | c).sum() if match == "iou" else 2 * (t & c).sum() / (t.sum() + c.sum())

    def assign(self, match: str, threshold: float) -> list[tuple[int, int]]:
        """Of all sets of pairs in which nothing is twice, the one of the greatest sum."""
        all_pairs = [(i, j) for i in range(len(self.targets)) for j in range(len(self.parts))]
        pairs = [pair for pair in all_pairs if self.quality(*pair, match) >= threshold]
        best: tuple[float, tuple] = (0.0, ())
        for k in range(1, 1 + min(len(self.targets), len(self.parts))):
            for chosen in combinations(pairs, k):
                if len({i for i, _ in chosen}) == len({j for _, j in chosen}) == k:
                    best = max(best, (sum(self.quality(*pair, match) for pair in chosen), chosen))
        return list(best[1])

    def instance_dice(self, i: int) -> float:
        return self.dice(self.targets[i], [self.parts[j] for k, j in self.counted if k == i])

    def component_dice(self, j: int) -> float:
        return self.dice(self.parts[j], [self.targets[i] for i, k in self.counted if k == j])

    @staticmethod
    def dice(own: np.ndarray, others: list[np.ndarray]) -> float:
        union = np.logical_or.reduce(others) if others else np.zeros_like(own)
        return 2 * (own & union).sum() / (own.sum() + union.sum())

    def counts(self, low: float = 0, high: float = np.inf) -> Counts:
        """Counts of the objects of low <= mL < high."""
        chosen = [i for i, t in enumerate(self.targets) if low <= t.sum() * 0.001 < high]
        parts = [j for j, c in enumerate(self.parts) if low <= c.sum() * 0.001 < high]
        target, predicted = self.foregrounds
        return Counts(
            instances=len(chosen),
            components=len(parts),
            found=len({i for i, _ in self.counted} & set(chosen)),
            hits=len({j for _, j in self.counted} & set(parts)),
            matched_instances=sum(i in chosen for i, _ in self.matched),
            matched_components=sum(j in parts for _, j in self.matched),
            iou50_instances=sum(i in chosen for i, _ in self.iou50),
            iou50_components=sum(j in parts for _, j in self.iou50),
            matched_iou=sum(self.quality(i, j, "iou") for i, j in self.matched if i in chosen),
            matched_dice=sum(self.quality(i, j, "dice") for i, j in self.matched if i in chosen),
            instance_dice=sum(self.instance_dice(i) for i in chosen),
            target_voxels=int(target.sum()),
            predicted_voxels=int(predicted.sum()),
            shared_voxels=int((target & predicted).sum()),
            target_ml=target.sum() * 0.001,
            predicted_ml=predicted.sum() * 0.001,
        )


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_plain_loops(shape: tuple[int, ...], seed: int, rule: Rule) -> None:
    instances, prediction = random_pair(shape, seed)
    got, plain = detect(instances, prediction, rule=rule), Plain(instances, prediction, rule)
    assert asdict(got.counts) == pytest.approx(asdict(plain.counts()))
    edges = [0, *EDGES, np.inf]
    for counts, low, high in zip(got.counts_by_size(EDGES), edges, edges[1:]):
        assert asdict(counts) == pytest.approx(asdict(plain.counts(low, high)))
    np.testing.assert_array_equal(got.components > 0, prediction)
    assert got.instance_dice == pytest.approx([plain.instance_dice(i) for i in range(len(plain.targets))])
    numbers = [int(got.components[part].max()) - 1 for part in plain.parts]  # whatever order components have
    assert got.component_dice[numbers] == pytest.approx([plain.component_dice(j) for j in range(len(plain.parts))])
    assert set(np.flatnonzero(got.found)) == {i for i, _ in plain.counted}
    assert set(np.flatnonzero(got.hits)) == {numbers[j] for _, j in plain.counted}


def test_the_random_images_hold_every_case() -> None:
    for shape in SHAPES:
        detections = [[detect(*random_pair(shape, seed), rule=rule) for seed in range(6)] for rule in RULES]
        totals = [sum((detection.counts for detection in of_rule), Counts()) for of_rule in detections]
        assert min(totals[0].iou50_instances, totals[0].missed, totals[0].false) > 0
        assert len({(total.found, total.hits) for total in totals}) >= 3
        assert totals[0].found != totals[0].hits
        for b in range(3):
            by_size = sum((detection.counts_by_size(EDGES)[b] for detection in detections[0]), Counts())
            assert min(by_size.instances, by_size.components) > 0


# --- one rule after the other ------------------------------------------------------------------------------

TARGETS = [Box((0, 0), (2, 4)), Box((5, 0), (9, 4)), Box((12, 0), (13, 2))]  # 8, 16 and 2 voxels
PREDICTED = [Box((0, 0), (2, 3)), Box((8, 3), (10, 5)), Box((0, 9), (3, 10))]  # 6, 4 and 3 voxels; meets 6, 1 and 0


def hand(rule: Rule) -> Detection:
    return detect(paint((16, 13), TARGETS).numpy(), paint((16, 13), PREDICTED).numpy(), rule=rule, voxel_ml=0.5)


def test_hand_numbers_of_overlap() -> None:
    """Found well, found badly, missed; and one false."""
    result = hand(Rule())
    assert result.found.tolist() == [True, True, False]
    assert sorted(result.hits.tolist()) == [False, True, True]
    assert asdict(result.counts) == pytest.approx(
        asdict(
            Counts(
                instances=3,
                components=3,
                found=2,
                hits=2,
                matched_instances=1,
                matched_components=1,
                iou50_instances=1,
                iou50_components=1,
                matched_iou=6 / 8,
                matched_dice=2 * 6 / 14,
                instance_dice=2 * 6 / 14 + 2 * 1 / 20,
                target_voxels=26,
                predicted_voxels=13,
                shared_voxels=7,
                target_ml=13,
                predicted_ml=6.5,
            )
        )
    )


@pytest.mark.parametrize(
    "rule, found",
    [
        (Rule("iou", 6 / 8), 1),
        (Rule("iou", 6 / 8 + 1e-9), 0),
        (Rule("iou", 1 / 19), 2),
        (Rule("dice", 12 / 14), 1),
        (Rule("dice", 12 / 14 + 1e-9), 0),
        (Rule("dice", 2 / 20), 2),
    ],
    ids=str,
)
def test_the_threshold_itself_is_in(rule: Rule, found: int) -> None:
    counts = hand(rule).counts
    assert (counts.found, counts.hits, counts.matched_instances) == (found, found, found)
    assert counts.f1_iou50 == 2 * 1 / 6  # whatever the rule


def test_a_split_instance_is_found_by_overlap_and_has_the_dice_of_the_union() -> None:
    target, halves = np.ones((1, 8), int), np.array([[1, 1, 1, 0, 0, 1, 1, 0]])
    overlap, iou = detect(target, halves), detect(target, halves, rule=Rule("iou", 0.1))
    assert (overlap.counts.found, overlap.counts.hits) == (1, 2)
    assert overlap.counts.lesion_dice == pytest.approx(2 * 5 / (8 + 5))
    assert (iou.counts.found, iou.counts.hits, iou.counts.false) == (1, 1, 1)
    assert iou.counts.lesion_dice == pytest.approx(2 * 3 / (8 + 3))  # with its partner, the larger half
    assert iou.component_dice.tolist() == pytest.approx([2 * 3 / (8 + 3), 0])


def test_a_missed_instance_has_a_dice_of_0_in_one_mean_and_none_in_the_other() -> None:
    counts = hand(Rule()).counts
    assert counts.lesion_dice_found * 2 == pytest.approx(counts.lesion_dice * 3)


def test_touching_instances_stay_apart_with_a_map() -> None:
    """As one component they would be one instance."""
    mask = np.ones((4, 6), int)
    halves = np.repeat([[1, 1, 1, 2, 2, 2]], 4, axis=0)
    assert detect(mask, halves == 1).counts.instances == 1
    counts = detect(halves, halves == 1).counts
    assert (counts.instances, counts.found, counts.missed, counts.f1_iou50) == (2, 1, 1, 2 / 3)


def test_objects_belong_to_the_bin_of_their_own_size() -> None:
    """8, 16 and 2 mL against 3, 2 and 1.5 mL, halved."""
    small, middle, large = hand(Rule()).counts_by_size(np.array([2, 4]))
    assert [(c.instances, c.found, c.components, c.hits) for c in (small, middle, large)] == [
        (1, 0, 1, 0),
        (0, 0, 2, 2),  # the one of 2 mL is not below its edge
        (2, 2, 0, 0),
    ]
    assert [c.f1_iou50 for c in (small, middle, large)] == [0, 1 / 2, 1 / 2]
    assert [c.volume_ratio for c in (small, middle, large)] == [0.5] * 3


def test_an_object_at_an_edge_is_in_the_bin_above_it_whatever_its_header_rounds() -> None:
    ten = paint((4, 12), [Box((1, 1), (2, 11))]).numpy()
    for spacing in (1.0, float(np.float32(0.99999994)), float(np.float32(1.0000001))):
        below, above = detect(ten, ten, voxel_ml=spacing / 1000).counts_by_size(np.array([0.01]))
        assert (below.instances, above.instances, above.components) == (0, 1, 1)


# --- edges -------------------------------------------------------------------------------------------------

SHARES = ("sensitivity", "precision", "f1", "fnr", "fdr", "f1_iou50", "rq", "sq_iou", "sq_dice", "pq_iou", "pq_dice")
SHARES += ("lesion_dice", "lesion_dice_found", "dice", "volume_ratio", "volume_difference_percent")


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(
    "target, prediction, defined",
    [
        (0, 0, {}),
        (0, 1, dict.fromkeys(("precision", "f1", "f1_iou50", "rq", "pq_iou", "pq_dice", "dice"), 0) | {"fdr": 1}),
        (
            1,
            0,
            dict.fromkeys(("sensitivity", "f1", "f1_iou50", "rq", "pq_iou", "pq_dice", "lesion_dice", "dice"), 0)
            | {"fnr": 1, "volume_ratio": 0, "volume_difference_percent": -100},
        ),
        (1, 1, dict.fromkeys(SHARES, 1) | {"fnr": 0, "fdr": 0, "volume_difference_percent": 0}),
    ],
    ids=["both empty", "empty target", "empty prediction", "perfect"],
)
def test_empty_sides(target: int, prediction: int, defined: dict[str, float], rule: Rule) -> None:
    result = detect(EMPTY + target, EMPTY + prediction, rule=rule)
    assert (len(result.found), len(result.hits)) == (target, prediction)
    assert result.counts.scores(SHARES) == pytest.approx(dict.fromkeys(SHARES, nan) | defined, nan_ok=True)
    assert result.counts.volume_difference_ml == pytest.approx(0.02 * (prediction - target))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_permuted_ids_change_only_the_order(shape: tuple[int, ...], rule: Rule) -> None:
    instances, prediction = random_pair(shape, seed=1)
    assert sorted(np.unique(instances)) == [0, 1, 2, 3, 4, 5, 6]
    new = np.array([0, 4, 6, 1, 5, 2, 3])
    a, b = detect(instances, prediction, rule=rule), detect(new[instances], prediction, rule=rule)
    assert asdict(a.counts) == pytest.approx(asdict(b.counts), rel=1e-12)
    np.testing.assert_array_equal(b.found[new[1:] - 1], a.found)
    np.testing.assert_array_equal(b.instance_dice[new[1:] - 1], a.instance_dice)
    assert not a.found.all()


def test_any_numbering_is_made_compact() -> None:
    """Gaps cost nothing and -1, with which nnU-Net pads, is background."""
    names = np.array([-1, 5, 70, 4_000_000])
    instances = np.array([[0, 1, 1, 0, 2, 0, 3]])
    result = detect(names[instances], np.array([[0, 1, 0, 0, 0, 0, 1]]))
    np.testing.assert_array_equal(result.instances, instances)
    assert result.instance_ids.tolist() == [5, 70, 4_000_000]
    assert result.found.tolist() == [True, False, True]
    assert result.counts.target_voxels == 4


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint32, np.int16])
def test_every_type_will_do(dtype: type) -> None:
    instances = np.array([[1, 1, 0, 0, 1]]).astype(dtype)
    counts = detect(instances, instances).counts
    assert (counts.instances, counts.components, counts.shared_voxels) == (1, 2, 3)


def test_counts_of_images_add_up_to_those_of_their_montage() -> None:
    """So the ratios of a sum are pooled, not averaged."""
    pairs = [random_pair((16, 13), seed) for seed in range(4)]
    gap = np.zeros((1, 13), np.int64)
    montage = np.concatenate([part for k, (i, _) in enumerate(pairs) for part in (np.where(i, i + 10 * k, 0), gap)])
    predicted = np.concatenate([part for _, p in pairs for part in (p, gap)])
    total = sum((detect(*pair).counts for pair in pairs), Counts())
    assert asdict(total) == pytest.approx(asdict(detect(montage, predicted).counts))
    assert total.f1 != pytest.approx(np.mean([detect(*pair).counts.f1 for pair in pairs]))


# --- ignored voxels ----------------------------------------------------------------------------------------


def test_ignored_voxels_belong_to_nothing() -> None:
    """With whole objects only, ignoring is cutting off."""
    instances, prediction = random_pair((16, 13), seed=2)
    far = np.full((5, 13), 7), np.ones((5, 13), bool)
    gap = np.zeros((3, 13), int)
    larger = [np.concatenate((own, gap, other)) for own, other in zip((instances, prediction), far)]
    valid = np.arange(len(larger[0])) < 16 + 2
    counts = detect(*larger, valid=np.broadcast_to(valid[:, None], larger[0].shape)).counts
    assert asdict(counts) == pytest.approx(asdict(detect(instances, prediction).counts))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_under_ignored_voxels_changes_nothing(shape: tuple[int, ...]) -> None:
    valid = random_mask(shape, 3, share=0.9).numpy()
    instances, prediction = random_pair(shape, seed=3)
    others, another = random_pair(shape, seed=4)
    a = detect(instances, prediction, valid=valid).counts
    b = detect(np.where(valid, instances, others), np.where(valid, prediction, another), valid=valid).counts
    assert a == b != detect(instances, prediction).counts


def test_an_object_beside_ignored_voxels_counts_only_if_it_meets_something() -> None:
    """It may go on where nobody annotated. Two instances and two components touch the ignored column."""
    #                     . . . . ignored
    instances = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 3, 3, 0], [0, 0, 0, 0]])
    prediction = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    valid = np.ones((6, 4), bool)
    valid[:, 3] = False
    prediction[1:3] = 0
    counts = detect(instances, prediction, valid=valid).counts
    assert (counts.instances, counts.found, counts.missed) == (2, 2, 0)  # 2 is missed, but left out
    assert (counts.target_voxels, counts.predicted_voxels) == (6, 2)  # voxels are counted all the same
    assert detect(instances, prediction).counts.missed == 1
    apart = prediction.copy()
    apart[4, 1], apart[5, 2] = 0, 1  # now 3 is met by a corner only, that is not at all
    counts = detect(instances, apart, valid=valid).counts
    assert (counts.instances, counts.found, counts.components, counts.false) == (1, 1, 1, 0)


# --- how the overlap rule can be gamed, and what shows it ------------------------------------------------


def test_one_component_over_everything_has_a_perfect_f1() -> None:
    dots = [Box((y, x), (y + 1, x + 1)) for y in range(1, 16, 4) for x in range(1, 13, 4)]
    counts = detect(paint((16, 13), dots).numpy(), np.ones((16, 13))).counts
    assert (counts.sensitivity, counts.precision, counts.f1) == (1, 1, 1)
    assert counts.f1_iou50 == 0
    assert counts.volume_ratio == pytest.approx(16 * 13 / len(dots)) and counts.volume_ratio > 10


def test_crumbs_raise_f1_and_lower_what_is_one_to_one() -> None:
    """Two instances, one missed, and two false components; then the hit falls to pieces."""
    instances = paint((16, 13), [Box((0, 0), (9, 9)), Box((12, 11), (13, 12))]).numpy()
    false = paint((16, 13), [Box((15, 0), (16, 1)), Box((15, 3), (16, 4))]).numpy()
    crumbs = np.zeros((16, 13), int)
    crumbs[:9:2, :9:2] = 1
    honest, gamed = (detect(instances, false + hit).counts for hit in (instances == 1, crumbs))
    assert (honest.components, gamed.components, honest.missed, gamed.missed) == (3, 27, 1, 1)
    assert (honest.f1, gamed.f1) == pytest.approx(
        (2 * (1 / 2) * (1 / 3) / (5 / 6), 2 * (1 / 2) * (25 / 27) / (77 / 54))
    )
    assert gamed.f1 > honest.f1
    assert (honest.f1_iou50, gamed.f1_iou50) == (2 / 5, 0)
    assert gamed.volume_ratio < 0.4 < 1 <= honest.volume_ratio


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(5, 4\)"):
        detect(EMPTY, EMPTY.T)


@pytest.mark.parametrize("valid", [np.ones((5, 4), bool), np.ones(4, bool)])
def test_a_mask_of_another_shape_is_refused(valid: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"target and valid must have one shape, got \(4, 5\)"):
        detect(EMPTY, EMPTY, valid=valid)


def test_connectivity_of_the_prediction():
    target, prediction = np.zeros((2, 2, 3), int), np.zeros((2, 2, 3), bool)
    prediction[0, 0, 0] = prediction[0, 1, 1] = prediction[1, 0, 2] = True  # by edge, then by corner
    assert [detect(target, prediction, rule=Rule(connectivity=c)).counts.false for c in (6, 18, 26)] == [3, 2, 1]


def test_minimum_size_drops_objects_of_both_sides_but_no_voxels():
    target = np.array([[5, 0, 7, 7, 0, 0, 0]])
    prediction = np.array([[1, 0, 1, 0, 0, 1, 1]])
    counts = detect(target, prediction, rule=Rule(minimum_ml=0.002), voxel_ml=0.001).counts
    assert (counts.instances, counts.found, counts.components, counts.false) == (1, 0, 1, 1)
    assert counts.dice == detect(target, prediction).counts.dice
    assert detect(target, prediction, rule=Rule(minimum_ml=0.002), voxel_ml=0.002).counts.instances == 2


def test_greedy_takes_the_best_pair_first():
    target = np.array([[1] * 10 + [2] * 8])
    prediction = np.array([[1] * 3 + [0] + [1] * 10 + [0] * 4])  # IoU 3 / 10 and 6 / 14 with 1, 4 / 14 with 2
    one_to_one, greedy = (detect(target, prediction, rule=Rule(m, threshold=0.1)).counts for m in ("iou", "greedy"))
    assert (one_to_one.found, one_to_one.matched_iou) == (2, pytest.approx(3 / 10 + 4 / 14))
    assert (greedy.found, greedy.matched_iou) == (1, pytest.approx(6 / 14))


def test_share_of_the_target_that_components_cover_together():
    target = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2]])
    prediction = np.array([[1, 0, 0, 1, 0, 0, 0, 0, 1]])
    for threshold, found, hits in ((0.25, 2, 3), (0.5, 1, 2), (0.51, 0, 0)):
        counts = detect(target, prediction, rule=Rule("share", threshold)).counts
        assert (counts.found, counts.hits) == (found, hits)
