"""The choice of models and size bins that scores best on some cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice
from nnunet_instance_trainers.ensemble_fitting.count_table import Choices, Table, single_model

__all__ = ["PARTS", "Search", "Space", "size_edges"]

PARTS = ("bins", "more bins", "hysteresis", "minimum volume")
"""What may be chosen beyond a model: two bins, up to the most that are allowed, and the two ways to drop objects."""


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
    """Choices fitted to some cases, each worked out once.

    Attributes:
        table: counts.
        space: what may be chosen.
    """

    table: Table
    space: Space
    _chosen: dict[tuple[tuple[str, ...], bytes], Choices] = field(default_factory=dict)
    _binned: dict[tuple[int, bool, bool, bytes], Choice] = field(default_factory=dict)

    def choose(self, parts: tuple[str, ...], chosen: np.ndarray) -> Choices:
        """The choices that score best on some cases; of equals the simplest."""
        key = parts, chosen.tobytes()
        if key not in self._chosen:
            starts = [single_model(self.table, m) for m in range(self.space.n_models)]
            if "bins" in parts:
                starts += [
                    tuple(self._bins(c, rescue, chosen, "more bins" in parts) for c in range(self.table.n_classes))
                    for rescue in (False, True)
                ]
            candidates = [tuple(self._refined(c, choice, parts, chosen) for c, choice in enumerate(s)) for s in starts]
            self._chosen[key] = _best(
                candidates, lambda choices: sum(self.table.value(c, choice, chosen) for c, choice in enumerate(choices))
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


def _best(options: Sequence, value: Callable) -> object:
    """The first option that none beats by more than rounding."""
    best, best_value = options[0], value(options[0])
    for option in options[1:]:
        if (v := value(option)) > best_value + 1e-9:
            best, best_value = option, v
    return best
