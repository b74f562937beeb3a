"""The choice of models and size bins that scores best, and an honest estimate of what it is worth.

Whatever is chosen is chosen on some cases and scored on others. A part of the procedure (bins, hysteresis, a least
volume) is taken only where it gains on cases that it was not fitted to, by more than chance explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import chain, combinations, pairwise, product

import numpy as np

from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.scores import OVERLAP, Rule
from nnunet_instance_trainers.postprocessing.objects import Choice, ObjectLists, count_choice

__all__ = ["PARTS", "SCORES_TO_FIT", "Estimate", "Fit", "Space", "Table", "fit", "size_edges"]

PARTS = ("bins", "more bins", "hysteresis", "minimum volume")
"""What may be chosen beyond a model: two bins, up to the most that are allowed, and the two ways to drop objects."""
SCORES_TO_FIT = (
    "f1",
    "f1_dice",
    "f1_iou50",
    "pq_iou",
    "pq_dice",
    "rq",
    "sensitivity",
    "precision",
    "lesion_dice",
    "dice",
)
"""Scores of the evaluation of which more is better; ``f1_dice`` is the mean of F1 and Dice."""

Plan = tuple[Choice, ...]
"""A choice per class."""


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Attributes:
        n_models: the sources 0..n_models - 1 are the models' segmentations.
        edges_ml: ascending candidates for edges and for the least volume.
        max_bins: the most bins of a class.
        lows: lower thresholds of hysteresis: source ``m + n_models * (k + 1)`` is p > lows[k] of model m.
        peaks: upper thresholds.
    """

    n_models: int
    edges_ml: tuple[float, ...]
    max_bins: int = 3
    lows: tuple[float, ...] = ()
    peaks: tuple[float, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that there is a choice in."""
        several = self.n_models > 1
        there = (several and self.max_bins > 1, several and self.max_bins > 2, bool(self.lows and self.peaks), True)
        return tuple(part for part, is_there in zip(PARTS, there) if is_there)


class Table:
    """Counts of every case, class and choice, worked out when first asked for.

    Args:
        cases: lists of each case and class.
        rule: when an instance is found.
        score: one of :data:`SCORES_TO_FIT`; pooled over cases, averaged over classes.
    """

    def __init__(self, cases: Sequence[Sequence[ObjectLists]], rule: Rule = OVERLAP, score: str = "f1") -> None:
        self.cases, self.rule, self.score_name = cases, rule, score
        self.n_classes = len(cases[0])
        self._counts: dict[tuple[int, Choice], np.ndarray] = {}

    def counts(self, c: int, choice: Choice) -> np.ndarray:
        """(n cases, n counts) of a class."""
        key = c, choice
        if key not in self._counts:
            rows = [tuple(vars(count_choice(case[c], choice, self.rule)).values()) for case in self.cases]
            self._counts[key] = np.array(rows, float)
        return self._counts[key]

    def plan_counts(self, plan: Plan) -> np.ndarray:
        """(n cases, n classes, n counts)."""
        return np.stack([self.counts(c, choice) for c, choice in enumerate(plan)], 1)

    def value(self, c: int, choice: Choice, chosen: np.ndarray) -> float:
        """The score of a class, pooled over some cases, given as (n cases) bool; -1 where it is undefined."""
        value = self._score(self.counts(c, choice)[chosen].sum(0))
        return -1.0 if np.isnan(value) else value

    def score(self, totals: np.ndarray) -> float:
        """The mean over classes of summed counts (n classes, n counts); nan where no class has one."""
        values = [value for value in map(self._score, totals) if not np.isnan(value)]
        return float(np.mean(values)) if values else float("nan")

    def _score(self, row: np.ndarray) -> float:
        counts = Counts(*row)
        if self.score_name == "f1_dice":
            return (counts.f1 + counts.dice) / 2
        return getattr(counts, self.score_name)


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
    """

    plan: Plan
    parts: tuple[str, ...]
    models: list[Estimate]
    procedures: dict[tuple[str, ...], Estimate]
    whole: Estimate
    held_out: list[Plan]


def size_edges(volumes_ml: np.ndarray, *, steps: int = 20, always: Sequence[float] = (0.05,)) -> tuple[float, ...]:
    """Candidates for edges: the quantiles 1/steps, 2/steps, ... of some volumes, in two digits, and 0.05 mL.

    Example:
        >>> size_edges(np.arange(1, 101) / 100, steps=4)
        (0.05, 0.26, 0.5, 0.75)
    """
    inner = np.arange(1, steps) / steps
    quantiles = np.quantile(volumes_ml, inner, method="inverted_cdf") if len(volumes_ml) else np.zeros(0)
    return tuple(sorted({float(f"{edge:.2g}") for edge in (*quantiles, *always)} - {0.0}))


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
    search = _Search(table, space)
    bootstrap = _Bootstrap(table, groups, level, samples, seed)
    everything = np.ones(len(groups), bool)
    plans: dict[int, Plan] = {}
    for group in progress(np.unique(groups).tolist()):
        parts, _ = _decide(search, bootstrap, groups != group)
        plans[group] = search.choose(parts, groups != group)
    held_out = [plans[group] for group in groups.tolist()]
    parts, rows = _decide(search, bootstrap, everything)
    single = rows[()]
    return Fit(
        plan=search.choose(parts, everything),
        parts=parts,
        models=[bootstrap.estimate(name, table.plan_counts(_single(table, m)), single) for m, name in enumerate(names)],
        procedures={key: bootstrap.estimate(" + ".join(key), value, single) for key, value in rows.items()},
        whole=bootstrap.estimate(
            "this fit", np.stack([table.plan_counts(plan)[i] for i, plan in enumerate(held_out)]), single
        ),
        held_out=held_out,
    )


def _decide(
    search: _Search, bootstrap: _Bootstrap, chosen: np.ndarray
) -> tuple[tuple[str, ...], dict[tuple[str, ...], np.ndarray]]:
    """The parts that gain on held-out cases, taken one by one, and the held-out counts of every combination."""
    there = search.space.parts
    subsets = chain.from_iterable(combinations(there, n) for n in range(len(there) + 1))
    possible = [parts for parts in subsets if "bins" in parts or "more bins" not in parts]
    rows = {parts: search.held_out(parts, bootstrap.groups, chosen) for parts in possible}
    parts: tuple[str, ...] = ()
    while len(parts) < len(there):
        more = [tuple(p for p in there if p in (*parts, part)) for part in there if part not in parts]
        best = max(
            (parts for parts in more if parts in rows),
            key=lambda key: bootstrap.difference(rows[key], rows[parts], chosen),
        )
        # As many intervals as there are parts to try: each is that much wider.
        low, _ = bootstrap.interval(rows[best], rows[parts], chosen, tries=len(there))
        if not low > 0:
            break
        parts = best
    return parts, rows


@dataclass
class _Search:
    table: Table
    space: Space
    _chosen: dict[tuple[tuple[str, ...], bytes], Plan] = field(default_factory=dict)
    _binned: dict[tuple[int, bool, bool, bytes], Choice] = field(default_factory=dict)

    def held_out(self, parts: tuple[str, ...], groups: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(n cases, n classes, n counts) of plans fitted without the group that a case is in; zeros elsewhere."""
        rows = np.zeros((len(chosen), self.table.n_classes, len(fields(Counts))))
        for group in np.unique(groups[chosen]):
            test = chosen & (groups == group)
            rows[test] = self.table.plan_counts(self.choose(parts, chosen & ~test))[test]
        return rows

    def choose(self, parts: tuple[str, ...], chosen: np.ndarray) -> Plan:
        """The plan that scores best on some cases; of equals the simplest."""
        key = parts, chosen.tobytes()
        if key not in self._chosen:
            starts = [_single(self.table, m) for m in range(self.space.n_models)]
            if "bins" in parts:
                starts += [
                    tuple(self._bins(c, rescue, chosen, "more bins" in parts) for c in range(self.table.n_classes))
                    for rescue in (False, True)
                ]
            plans = [tuple(self._refined(c, choice, parts, chosen) for c, choice in enumerate(s)) for s in starts]
            self._chosen[key] = _best(
                plans, lambda plan: sum(self.table.value(c, choice, chosen) for c, choice in enumerate(plan))
            )
        return self._chosen[key]

    def _bins(self, c: int, rescue: bool, chosen: np.ndarray, more: bool) -> Choice:
        """The best of all choices of one and two bins, and then split one bin at a time."""
        key = c, rescue, more, chosen.tobytes()
        if key not in self._binned:
            models, edges = range(self.space.n_models), self.space.edges_ml
            pairs = [(a, b) for a, b in product(models, repeat=2) if a != b]
            options = [Choice((m,)) for m in models]
            options += [Choice(pair, (edge,), rescue) for edge, pair in product(edges, pairs)]
            best = _best(options, lambda choice: self.table.value(c, choice, chosen))
            while more and 1 < len(best.sources) < self.space.max_bins:
                finer = _best([best, *self._splits(best)], lambda choice: self.table.value(c, choice, chosen))
                if finer == best:
                    break
                best = finer
            self._binned[key] = best
        return self._binned[key]

    def _splits(self, choice: Choice) -> Iterable[Choice]:
        for edge, m in product(self.space.edges_ml, range(self.space.n_models)):
            b = int(np.searchsorted(choice.edges_ml, edge))
            if edge in choice.edges_ml or m == choice.sources[b]:
                continue
            edges = (*choice.edges_ml[:b], edge, *choice.edges_ml[b:])
            for halves in ((m, choice.sources[b]), (choice.sources[b], m)):
                sources = (*choice.sources[:b], *halves, *choice.sources[b + 1 :])
                if all(x != y for x, y in pairwise(sources)):
                    yield replace(choice, sources=sources, edges_ml=edges)

    def _refined(self, c: int, choice: Choice, parts: tuple[str, ...], chosen: np.ndarray) -> Choice:
        def value(choice: Choice) -> float:
            return self.table.value(c, choice, chosen)

        if "hysteresis" in parts:
            choice = _best([choice, *self._hystereses(choice)], value)
        if "minimum volume" in parts:
            choice = _best([choice, *(replace(choice, min_volume_ml=edge) for edge in self.space.edges_ml)], value)
        return choice

    def _hystereses(self, choice: Choice) -> Iterable[Choice]:
        n = self.space.n_models
        for (k, low), peak in product(enumerate(self.space.lows), self.space.peaks):
            if low <= peak:
                yield replace(choice, sources=tuple(m + n * (k + 1) for m in choice.sources), peak=peak)


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
        """Of the score of counts, or of its difference to that of other counts on the same draws."""
        draws = self._draws if chosen is None else self._draws_of(chosen)
        values = self._scores(draws, rows) - (0 if other is None else self._scores(draws, other))
        values = values[~np.isnan(values)]
        if not len(values):
            return float("nan"), float("nan")
        tail = (1 - self.level) / 2 / tries
        low, high = np.quantile(values, (tail, 1 - tail))
        return float(low), float(high)

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

    def _scores(self, draws: np.ndarray, rows: np.ndarray) -> np.ndarray:
        totals = np.einsum("sn,nck->sck", draws, rows)
        return np.array([self.table.score(total) for total in totals])


def _single(table: Table, model: int) -> Plan:
    return (Choice((model,)),) * table.n_classes


def _best(options: Sequence, value: Callable) -> object:
    """The first option that none beats by more than rounding."""
    best, best_value = options[0], value(options[0])
    for option in options[1:]:
        if (v := value(option)) > best_value + 1e-9:
            best, best_value = option, v
    return best
