from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.instances.matching import match_greedily, match_one_to_one

Pair = tuple[int, int, float]


def best(pairs: list[Pair], threshold: float) -> tuple[float, set[frozenset[Pair]]]:
    """The greatest sum and all choices that reach it, by trying every choice."""

    def choices(rest: list[Pair]) -> list[list[Pair]]:
        if not rest:
            return [[]]
        (i, j, q), *others = rest
        free = [pair for pair in others if pair[0] != i and pair[1] != j]
        return choices(others) + [[(i, j, q), *choice] for choice in choices(free)]

    all_choices = choices([pair for pair in pairs if pair[2] >= threshold])
    greatest = max(sum(q for *_, q in choice) for choice in all_choices)
    return greatest, {frozenset(c) for c in all_choices if abs(sum(q for *_, q in c) - greatest) < 1e-12}


def matched(pairs: list[Pair], threshold: float) -> list[Pair]:
    instance, component, quality = (np.array(part) for part in zip(*pairs))
    chosen = match_one_to_one(instance, component, quality, threshold=threshold)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    return [pairs[index] for index in chosen]


def random_pairs(seed: int) -> list[Pair]:
    random = np.random.default_rng(seed)
    return [(i, j, float(random.uniform())) for i in range(4) for j in range(5) if random.uniform() < 0.5]


@pytest.mark.parametrize("threshold", [0.01, 0.3])
@pytest.mark.parametrize("seed", range(20))
def test_equals_trying_every_choice(seed: int, threshold: float) -> None:
    pairs = random_pairs(seed)
    _, choices = best(pairs, threshold)
    assert frozenset(matched(pairs, threshold)) in choices


def test_the_greediest_pair_is_not_always_chosen() -> None:
    pairs = [(0, 0, 0.4), (0, 1, 0.5), (1, 1, 0.4)]
    assert matched(pairs, 0.3) == [(0, 0, 0.4), (1, 1, 0.4)]
    assert matched(pairs, 0.45) == [(0, 1, 0.5)]


def test_one_good_pair_beats_two_bad_ones() -> None:
    """The sum decides, not the number."""
    assert matched([(0, 0, 0.2), (0, 1, 0.5), (1, 1, 0.2)], 0.1) == [(0, 1, 0.5)]


def test_a_pair_at_the_threshold_is_in() -> None:
    assert matched([(3, 7, 0.5)], 0.5) == [(3, 7, 0.5)]
    assert matched([(3, 7, 0.5)], 0.500001) == []


def test_of_equal_rivals_one_is_chosen() -> None:
    assert len(matched([(0, 0, 0.5), (0, 1, 0.5)], 0.5)) == 1


def test_no_pairs() -> None:
    empty = np.zeros(0, dtype=int)
    assert match_one_to_one(empty, empty, np.zeros(0), threshold=0.5).tolist() == []


def test_thousands_of_rivals_in_one_chain() -> None:
    """Every instance lies on two components: the shifted assignment is the better one."""
    n = 20_000
    pairs_left, pairs_right = np.arange(n), np.arange(n) + 1
    instance = np.concatenate((np.arange(n), np.arange(n)))
    quality = np.concatenate((np.full(n, 0.3), np.full(n, 0.4)))
    chosen = match_one_to_one(instance, np.concatenate((pairs_left, pairs_right)), quality, threshold=0.2)
    assert chosen.tolist() == list(range(n, 2 * n))


def test_greedy_takes_the_best_pair_even_where_two_others_sum_to_more() -> None:
    instance, component, quality = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0.4, 0.5, 0.4])
    assert match_greedily(instance, component, quality, threshold=0.3).tolist() == [1]
    assert match_one_to_one(instance, component, quality, threshold=0.3).tolist() == [0, 2]
    assert match_greedily(instance, component, quality, threshold=0.51).tolist() == []


def test_greedy_equals_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    pairs = np.unique(random.integers(0, 9, (40, 2)), axis=0)
    quality = random.random(len(pairs))
    expected: list[int] = []
    for k in np.argsort(-quality):
        if all((pairs[k] != pairs[j]).all() for j in expected):
            expected.append(int(k))
    assert match_greedily(*pairs.T, quality, threshold=0).tolist() == sorted(expected)
