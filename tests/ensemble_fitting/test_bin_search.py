from __future__ import annotations

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.bin_search import size_edges


def test_edges_are_quantiles_and_the_papers() -> None:
    assert size_edges(np.zeros(0)) == (0.05,)
    assert size_edges(np.array([0.1234, 0.1234, 5.0, 7.0]), steps=4) == (0.05, 0.12, 5.0)
