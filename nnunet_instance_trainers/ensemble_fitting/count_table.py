"""Counts of every case, class and choice, and their scores: what is searched, and what estimates are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice, count_choice
from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import OVERLAP, Rule

__all__ = ["SCORES_TO_FIT", "Choices", "Table", "single_model"]

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

Choices = tuple[Choice, ...]
"""A choice per class."""


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

    def counts_of(self, choices: Choices) -> np.ndarray:
        """(n cases, n classes, n counts)."""
        return np.stack([self.counts(c, choice) for c, choice in enumerate(choices)], 1)

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


def single_model(table: Table, model: int) -> Choices:
    """One model for all classes and sizes."""
    return (Choice((model,)),) * table.n_classes
