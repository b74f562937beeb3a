from __future__ import annotations

import numpy as np
import pytest

from nnunet_instance_trainers.instances.volume_ranges import in_range, size_bins

EDGES = np.array([0.01, 0.05, 0.1])


def test_a_volume_is_in_the_bin_whose_range_holds_it() -> None:
    """At, just beside and far from edges; single precision is about 1e-7."""
    volumes = np.concatenate([EDGES * factor for factor in (0.5, 1 - 2e-6, 1 - 1e-7, 1, 1 + 1e-7, 1.5)])
    ranges = zip((0, *EDGES), (*EDGES, np.inf))
    held = np.stack([in_range(volumes, low, high) for low, high in ranges])
    assert (held.sum(0) == 1).all() and (held.argmax(0) == size_bins(volumes, EDGES)).all()


def test_the_last_digit_of_a_spacing_in_single_precision_decides_nothing() -> None:
    voxels = 10 * np.array([1.0, np.float32(0.99999994), np.float32(1.0000001)], float) / 1000
    assert size_bins(voxels, EDGES).tolist() == [1, 1, 1]
    assert size_bins(np.array([0.01 * (1 - 1e-5)]), EDGES).tolist() == [0]


@pytest.mark.parametrize("low, high", [(-1, 1), (1, 1), (2, 1)])
def test_an_empty_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="a range goes from 0 or more upwards"):
        in_range(np.ones(1), low, high)
