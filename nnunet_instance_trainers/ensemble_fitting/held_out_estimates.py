"""What a fitted choice is worth on cases that it was not fitted to.

Whatever is chosen is chosen on some cases and scored on others. A part of the procedure (bins, hysteresis, a least
volume) is taken only where it gains on cases that it was not fitted to, by more than chance explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.bin_search import Plan, Search, Space, Table, single_model
from nnunet_instance_trainers.evaluation.comparing.ranking import FEWEST_CASES
from nnunet_instance_trainers.evaluation.counts import Counts

__all__ = ["Estimate", "Fit", "cases_needed", "fit"]


@dataclass(frozen=True)
class Estimate:
    """What something scores on cases that it was not fitted to.

    Attributes:
        name: of a model, or the parts of a procedure.
        score, interval: pooled score, and its bootstrap interval over cases.
        gain, gain_interval: the same of the difference to the best single model.
        counts: pooled over cases and classes.
    """

    name: str
    score: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    counts: Counts


@dataclass(frozen=True)
class Fit:
    """The answer.

    Attributes:
        plan: a choice per class, fitted to all cases.
        parts: of the procedure that were taken; none for the best single model as it is.
        models: estimates of the plain models.
        procedures: estimates of every combination of parts, by those.
        whole: estimate of everything that was done here, the choice of parts included.
        held_out: the plan of each case that was fitted without its group, which ``whole`` comes from.
        left: the fewest cases that are left where a group is set aside.
        needed: with fewer left than that nothing can be told, and no part is taken.
    """

    plan: Plan
    parts: tuple[str, ...]
    models: list[Estimate]
    procedures: dict[tuple[str, ...], Estimate]
    whole: Estimate
    held_out: list[Plan]
    left: int
    needed: int

    @property
    def tells(self) -> bool:
        """Whether there were enough cases to tell a gain from chance."""
        return self.left >= self.needed


def cases_needed(tries: int, level: float) -> int:
    """With fewer cases a gain in every single one can be chance.

    As in a sign test: of n cases without any true gain all gain in one of 2^n trials, which must not exceed
    (1 - level) / 2 over all that is tried.

    Example:
        >>> cases_needed(1, 0.95), cases_needed(4, 0.95)
        (6, 8)
    """
    return math.ceil(math.log2(2 * max(tries, 1) / (1 - level)))


def fit(
    table: Table,
    space: Space,
    groups: np.ndarray,
    names: Sequence[str],
    *,
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Fit:
    """Choose on all cases, and estimate what the choice is worth.

    The estimate is nested: with one group of cases set aside, everything, the choice of parts included, is done on
    the others, and the result scored on that group.

    Args:
        table: counts.
        space: what may be chosen.
        groups: (n cases) the group of each case, such as nnU-Net's fold; three groups or more.
        names: of the models.
        level: of the intervals.
        samples: of the bootstrap.
        seed: of the bootstrap.
        progress: wraps the groups that are gone through, for a bar.

    Raises:
        ValueError: fewer than three groups.
    """
    if len(np.unique(groups)) < 3:
        raise ValueError(f"groups must be three or more, got {len(np.unique(groups))}")
    search = Search(table, space)
    bootstrap = _Bootstrap(table, groups, level, samples, seed)
    everything = np.ones(len(groups), bool)
    left, needed = int(min((groups != group).sum() for group in groups)), cases_needed(len(space.parts), level)
    tells = left >= needed
    plans: dict[int, Plan] = {}
    for group in progress(np.unique(groups).tolist()):
        parts, _ = _decide(search, bootstrap, groups != group, tells)
        plans[group] = search.choose(parts, groups != group)
    held_out = [plans[group] for group in groups.tolist()]
    parts, rows = _decide(search, bootstrap, everything, tells)
    single, plain = rows[()], [table.plan_counts(single_model(table, m)) for m in range(len(names))]
    return Fit(
        plan=search.choose(parts, everything),
        parts=parts,
        models=[bootstrap.estimate(name, counts, single) for name, counts in zip(names, plain)],
        procedures={key: bootstrap.estimate(" + ".join(key), value, single) for key, value in rows.items()},
        whole=bootstrap.estimate(
            "this fit", np.stack([table.plan_counts(plan)[i] for i, plan in enumerate(held_out)]), single
        ),
        held_out=held_out,
        left=left,
        needed=needed,
    )


def _decide(
    search: Search, bootstrap: _Bootstrap, chosen: np.ndarray, tells: bool
) -> tuple[tuple[str, ...], dict[tuple[str, ...], np.ndarray]]:
    """The parts that gain on held-out cases, taken one by one, and the held-out counts of every combination."""
    there = search.space.parts
    subsets = chain.from_iterable(combinations(there, n) for n in range(len(there) + 1))
    possible = [parts for parts in subsets if "bins" in parts or "more bins" not in parts]
    rows = {parts: search.held_out(parts, bootstrap.groups, chosen) for parts in possible}
    parts: tuple[str, ...] = ()
    while tells and len(parts) < len(there):
        more = [tuple(p for p in there if p in (*parts, part)) for part in there if part not in parts]
        best = max(
            (parts for parts in more if parts in rows),
            key=lambda key: bootstrap.difference(rows[key], rows[parts], chosen),
        )
        # As many intervals and tests as there are parts to try: each is that much wider or stricter.
        low, _ = bootstrap.interval(rows[best], rows[parts], chosen, tries=len(there))
        if not low > 0 or bootstrap.chance(rows[best], rows[parts], chosen) > (1 - bootstrap.level) / 2 / len(there):
            break
        parts = best
    return parts, rows


@dataclass
class _Bootstrap:
    """Percentile intervals over cases, always the same draws of them."""

    table: Table
    groups: np.ndarray
    level: float
    samples: int
    seed: int

    @cached_property
    def _draws(self) -> np.ndarray:
        n = len(self.groups)
        return np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=self.samples)

    def difference(self, rows: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> float:
        return self.table.score(rows[chosen].sum(0)) - self.table.score(other[chosen].sum(0))

    def interval(
        self, rows: np.ndarray, other: np.ndarray | None = None, chosen: np.ndarray | None = None, *, tries: int = 1
    ) -> tuple[float, float]:
        """Of the score of counts, or of its difference to that of other counts on the same draws; nan of few cases."""
        if (len(self.groups) if chosen is None else chosen.sum()) < FEWEST_CASES:
            return float("nan"), float("nan")
        draws = self._draws if chosen is None else self._draws_of(chosen)
        values = self._scores(draws, rows) - (0 if other is None else self._scores(draws, other))
        values = values[~np.isnan(values)]
        if not len(values):
            return float("nan"), float("nan")
        tail = (1 - self.level) / 2 / tries
        low, high = np.quantile(values, (tail, 1 - tail))
        return float(low), float(high)

    def chance(self, rows: np.ndarray, other: np.ndarray, chosen: np.ndarray) -> float:
        """How often swapping the two in cases at random gains as much; intervals of few cases are too narrow."""
        a, b = rows[chosen], other[chosen]
        n = len(a)
        if 2**n <= self.samples:
            kept = np.arange(2**n)[:, None] >> np.arange(n) & 1
        else:
            kept = np.random.default_rng(self.seed).integers(0, 2, (self.samples, n))
            kept[0] = 1
        swapped = self._scores(kept, a - b, b.sum(0)) - self._scores(1 - kept, a - b, b.sum(0))
        gain = self.table.score(a.sum(0)) - self.table.score(b.sum(0))
        return float(np.mean(swapped >= gain - 1e-9))

    def estimate(self, name: str, rows: np.ndarray, single: np.ndarray) -> Estimate:
        everything = np.ones(len(self.groups), bool)
        return Estimate(
            name=name,
            score=self.table.score(rows.sum(0)),
            interval=self.interval(rows),
            gain=self.difference(rows, single, everything),
            gain_interval=self.interval(rows, single),
            counts=Counts(*rows.sum((0, 1)).tolist()),
        )

    def _draws_of(self, chosen: np.ndarray) -> np.ndarray:
        n = int(chosen.sum())
        draws = np.zeros((self.samples, len(chosen)), int)
        draws[:, chosen] = np.random.default_rng(self.seed).multinomial(n, np.full(n, 1 / n), size=self.samples)
        return draws

    def _scores(self, draws: np.ndarray, rows: np.ndarray, more: np.ndarray | float = 0.0) -> np.ndarray:
        totals = np.einsum("sn,nck->sck", draws, rows) + more
        return np.array([self.table.score(total) for total in totals])
