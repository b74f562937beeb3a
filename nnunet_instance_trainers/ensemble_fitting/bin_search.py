"""The choice of models and size bins that scores best on some cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise, product

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.object_lists import Choice, ObjectLists, count_choice
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Rule

__all__ = ["PARTS", "SCORES_TO_FIT", "Plan", "Search", "Space", "Table", "single_model", "size_edges"]

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


def size_edges(volumes_ml: np.ndarray, *, steps: int = 20, always: Sequence[float] = (0.05,)) -> tuple[float, ...]:
    """Candidates for edges: the quantiles 1/steps, 2/steps, ... of some volumes, in two digits, and 0.05 mL.

    Example:
        >>> size_edges(np.arange(1, 101) / 100, steps=4)
        (0.05, 0.25, 0.5, 0.75)
    """
    inner = np.arange(1, steps) / steps
    quantiles = np.quantile(volumes_ml, inner, method="inverted_cdf") if len(volumes_ml) else np.zeros(0)
    return tuple(sorted({float(f"{edge:.2g}") for edge in (*quantiles, *always)} - {0.0}))


@dataclass
class Search:
    """Plans fitted to some cases, each worked out once.

    Attributes:
        table: counts.
        space: what may be chosen.
    """

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
            starts = [single_model(self.table, m) for m in range(self.space.n_models)]
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


def single_model(table: Table, model: int) -> Plan:
    """One model for all classes and sizes."""
    return (Choice((model,)),) * table.n_classes


def _best(options: Sequence, value: Callable) -> object:
    """The first option that none beats by more than rounding."""
    best, best_value = options[0], value(options[0])
    for option in options[1:]:
        if (v := value(option)) > best_value + 1e-9:
            best, best_value = option, v
    return best
