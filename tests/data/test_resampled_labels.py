from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.data.resampled_labels import count_impossible, outdated, to_grid


def random_label(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.int16)
    for _ in range(5):
        low = [random.integers(0, s - 2) for s in shape]
        label[tuple(slice(a, a + random.integers(1, 6)) for a in low)] = random.integers(1, 3)
    return label


@pytest.mark.nnunet
@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("factor", [(1, 1, 1), (0.5, 0.5, 0.5), (1.3, 0.8, 1), (1, 2, 2), (2.2, 0.45, 0.45)])
def test_what_nnunet_makes_of_a_label_is_possible(seed: int, factor: tuple[float, ...]) -> None:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    shape = (12, 16, 14)
    label = random_label(seed, shape)
    new = [max(round(s * f), 1) for s, f in zip(shape, factor)]
    spacing = [1.0, 1.0, 1.0] if factor[0] == factor[1] else [3.0, 1.0, 1.0]
    resampled = resample_data_or_seg_to_shape(
        label[None].astype(float),
        new,
        spacing,
        [s / f for s, f in zip(spacing, factor)],
        is_seg=True,
        order=1,
        order_z=0,
    )[0]
    assert count_impossible(label, resampled.astype(np.int16)) == 0


@pytest.mark.parametrize("factor", [1, 0.5, 1.5])
def test_another_label_is_not_possible(factor: float) -> None:
    label = np.zeros((16, 16, 16), np.int16)
    label[2:9, 2:9, 2:9] = 1
    new = [round(16 * factor)] * 3
    assert count_impossible(label, to_grid(label, new)) == 0
    for other in (label[:, ::-1], label * 2, np.zeros_like(label), np.ones_like(label)):
        assert count_impossible(other, to_grid(label, new)) > 0


def test_on_the_same_grid_every_voxel_counts() -> None:
    label = random_label(0, (8, 8, 8))
    other = label.copy()
    other[3, 3, 3] += 1
    assert count_impossible(label, other) == 1


def test_the_line_says_how_old_both_files_are(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("label.png", "seg.b2nd")]
    for file, time in zip(files, (86_400 * 800, 86_400 * 400)):
        file.touch()
        os.utime(file, (time, time))
    line = outdated(*files, "a", 7, "preprocess")
    assert "(1972-03-11" in line and "(1971-02-05" in line and "in 7 voxels: run 'preprocess'" in line
