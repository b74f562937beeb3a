"""The fit finds what was planted, and claims nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from planted_cases import GROUPS, N_CASES, cases, lists_of, noisy, specialists

from nnunet_instance_trainers.ensemble_fitting.bin_search import Search, Space, size_edges
from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice
from nnunet_instance_trainers.ensemble_fitting.count_table import Table
from nnunet_instance_trainers.ensemble_fitting.nested_fit import Fit, fit, held_out_counts
from nnunet_instance_trainers.ensemble_fitting.score_intervals import cases_needed


def fitted(made: list, n_models: int = 2, steps: int = 6, **options: object) -> tuple[Fit, Space]:
    """A fit with as many candidates for edges as steps: its time grows with them."""
    volumes = np.concatenate([lists.volumes_ml for case in made for lists in case])
    own = {key: value for key, value in options.items() if key in ("lows", "peaks", "max_bins")}
    space = Space(n_models, size_edges(volumes, steps=steps), **own)
    table = Table(made, score=str(options.get("score", "f1")))
    groups = np.arange(len(made)) % 5
    return fit(table, space, groups, [f"model {m}" for m in range(n_models)], samples=200), space


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_edge_is_found(seed: int) -> None:
    got, space = fitted(cases(specialists, seed))
    assert "bins" in got.parts
    (choice,) = got.choices
    assert choice.sources == (0, 1)
    steps = np.digitize((choice.edges_ml[0], 0.2), space.edges_ml)
    assert abs(int(steps[0]) - int(steps[1])) <= 1
    assert got.whole.gain_interval[0] > 0.05


def test_three_bins_are_found() -> None:
    def seen(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
        middle = (ml >= 0.05) & (ml < 0.7)
        return np.stack([noisy(random, real, np.where(good, 0.9, 0.5)) for good in (~middle, middle)], 1)

    made = cases(seen)
    got, space = fitted(made)
    (choice,) = got.choices
    assert choice.sources == (0, 1, 0)
    (two,) = Search(Table(made), space).choose(("bins",), np.ones(N_CASES, bool))
    assert len(two.sources) == 2
    assert choice.edges_ml[0] == pytest.approx(0.05, rel=0.5) and choice.edges_ml[1] == pytest.approx(0.7, rel=0.5)


def test_a_model_that_is_better_everywhere_is_the_answer() -> None:
    def seen(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
        return np.stack([noisy(random, real, np.full(len(ml), right)) for right in (0.6, 0.9, 0.7)], 1)

    got, _ = fitted(cases(seen), 3)
    assert (got.parts, got.choices) == ((), (Choice((1,)),))
    assert got.whole.gain == 0
    assert [estimate.gain < 0 for estimate in got.models] == [True, False, True]


def test_noise_gives_no_gain() -> None:
    """Two models that differ by chance only: chosen and scored on the same cases an ensemble does look better."""

    def seen(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
        return np.stack([noisy(random, real, np.full(len(ml), 0.7)) for _ in range(2)], 1)

    claimed, looks_better = [], []
    for seed in range(3):
        made = cases(seen, seed)
        got, space = fitted(made, max_bins=2)
        claimed += got.parts
        table, everything = Table(made), np.ones(N_CASES, bool)
        both = [Choice(pair, (edge,)) for edge in space.edges_ml for pair in ((0, 1), (1, 0))]
        in_sample = max(table.value(0, choice, everything) for choice in both)
        looks_better.append(in_sample - max(estimate.score for estimate in got.models))
        assert got.whole.gain_interval[0] <= 0
    assert np.mean(looks_better) > 0
    assert claimed == []


def alike(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Two models that differ by chance."""
    return np.stack([noisy(random, real, np.full(len(ml), 0.7)) for _ in range(2)], 1)


@pytest.mark.heavy
@pytest.mark.parametrize("n_cases", [3, 4, 9, 10])
def test_of_fifty_trials_with_few_cases_at_most_one_takes_chance_for_gain(n_cases: int) -> None:
    """Without the test of swaps 6 of 50 do with 10 cases of 6 objects, and 6 of 50 did with 3."""
    fits = [fitted(cases(alike, seed, 6, n_cases), max_bins=2)[0] for seed in range(50)]
    assert sum(bool(got.parts) for got in fits) <= 1


@pytest.mark.parametrize("n_cases, tells", [(3, False), (4, False), (8, False), (12, True)])
def test_too_few_cases_to_tell_is_an_answer(n_cases: int, tells: bool) -> None:
    """Even where the gain is plain. Of 8 cases in 5 groups 6 are left, and two parts need 7."""
    got, _ = fitted(cases(specialists, 1, n_cases=n_cases), max_bins=2)
    assert got.tells == tells and bool(got.parts) == tells and got.needed == cases_needed(2, 0.95) == 7
    assert np.isnan(got.whole.gain_interval).all() == (n_cases < 5)


def test_a_least_volume_is_found() -> None:
    def seen(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
        return noisy(random, real, np.where(ml < 0.03, 0.02, 0.9))[:, None]

    got, _ = fitted(cases(seen), 1, steps=20)
    assert got.parts == ("minimum volume",)
    assert got.choices[0].min_volume_ml == pytest.approx(0.03, rel=0.5)


def test_a_hysteresis_is_found() -> None:
    """At the lower threshold source 1 has all objects and as many false ones, which their peaks tell apart."""
    random, made = np.random.default_rng(0), []
    for _ in range(N_CASES):
        real = random.uniform(size=40) < 0.5
        seen = np.stack([noisy(random, real, np.full(40, 0.6)), np.ones(40, bool)], 1)
        peak = np.where(real, random.uniform(0.75, 1, 40), random.uniform(0.3, 0.85, 40))
        made.append([lists_of(np.full(40, 50), real, seen, peak)])
    got, _ = fitted(made, 1, lows=(0.3,), peaks=(0.5, 0.8, 0.95))
    assert got.parts == ("hysteresis",)
    assert got.choices[0] == Choice((1,), peak=0.8)


def test_each_class_has_its_own_choice_but_the_single_model_is_one() -> None:
    other = [[lists] for (lists,) in cases(lambda r, ml, real: specialists(r, ml, real)[:, ::-1], 1)]
    made = [[a[0], b[0]] for a, b in zip(cases(specialists, 0), other)]
    got, _ = fitted(made, max_bins=2)
    assert [choice.sources for choice in got.choices] == [(0, 1), (1, 0)]
    assert got.procedures["bins",].gain > 0.1 > max(estimate.gain for estimate in got.models)


def test_held_out_cases_do_not_speak() -> None:
    """Group 0 outweighs the others, and in it the specialists have changed places."""
    other = cases(lambda random, ml, real: specialists(random, ml, real)[:, ::-1], 1, n=300)
    made = [b if group == 0 else a for group, a, b in zip(GROUPS, cases(specialists), other)]
    got, space = fitted(made, max_bins=2)
    (together,) = Search(Table(made), space).choose(("bins",), np.ones(N_CASES, bool))
    assert together.sources == (1, 0)
    assert got.held_out[0][0].sources == (0, 1)


def test_held_out_cases_do_not_speak_for_a_part_either() -> None:
    """Bins gain in groups 0 and 1 alone, and show it only where one of them is fitted and the other one scored."""

    def seen(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
        return np.stack([noisy(random, real, np.full(len(ml), right)) for right in (0.6, 0.9)], 1)

    made = [b if group < 2 else a for group, a, b in zip(GROUPS, cases(seen, n=10), cases(specialists, n=200))]
    got, _ = fitted(made, steps=20, max_bins=2)
    assert "bins" in got.parts
    assert [len(got.held_out[group][0].sources) for group in range(5)] == [1, 1, 2, 2, 2]


def test_held_out_counts_come_from_plans_of_the_other_groups() -> None:
    made = cases(lambda random, ml, real: np.stack([noisy(random, real, np.full(len(ml), 0.7)) for _ in range(2)], 1))
    table, everything = Table(made), np.ones(N_CASES, bool)
    search = Search(table, Space(2, (0.02, 0.05, 0.2, 0.5)))
    rows, differing = held_out_counts(search, ("bins",), GROUPS, everything), 0
    for group in range(5):
        choices = search.choose(("bins",), group != GROUPS)
        differing += choices != search.choose(("bins",), everything)
        assert (rows[group == GROUPS] == table.counts_of(choices)[group == GROUPS]).all()
    assert differing > 0


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="three or more, got 2"):
        fit(Table(cases(specialists)), Space(2, (0.05,)), np.arange(N_CASES) % 2, ["a", "b"])
