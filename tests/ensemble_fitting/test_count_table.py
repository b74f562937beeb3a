from __future__ import annotations

import numpy as np
import pytest
from planted_cases import N_CASES, cases, specialists

from nnunet_instance_trainers.ensemble_fitting.choice_counts import Choice
from nnunet_instance_trainers.ensemble_fitting.count_table import SCORES_TO_FIT, Table
from nnunet_instance_trainers.evaluation.counts import Counts
from nnunet_instance_trainers.evaluation.detection import Rule


@pytest.mark.parametrize("score", SCORES_TO_FIT)
def test_every_score_is_that_of_pooled_counts(score: str) -> None:
    table = Table(cases(specialists), Rule(), score)
    value = table.value(0, Choice((0,)), np.arange(N_CASES) < 7)
    counts = Counts(*table.counts(0, Choice((0,)))[:7].sum(0))
    assert value == ((counts.f1 + counts.dice) / 2 if score == "f1_dice" else getattr(counts, score))
