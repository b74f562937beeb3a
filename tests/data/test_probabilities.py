from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.data.label_folders import ForegroundClass
from nnunet_instance_trainers.data.probabilities import read_probabilities
from nnunet_instance_trainers.errors import UserError

LABELS = (ForegroundClass("lesion", "1", (1,), 1), ForegroundClass("organ", "2", (2,), 2))
REGIONS = (ForegroundClass("whole", "(1, 2)", (1, 2), 0), ForegroundClass("core", "2", (2,), 1))
SHAPE = (3, 4, 5)


def softmax(seed: int = 0) -> np.ndarray:
    raw = np.exp(3 * np.random.default_rng(seed).standard_normal((3, *SHAPE)))
    return (raw / raw.sum(0)).astype(np.float32)


def save(tmp_path: Path, values: np.ndarray) -> Path:
    np.savez_compressed(tmp_path / "a.npz", probabilities=values)
    return tmp_path / "a.npz"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_are_read_as_they_are(tmp_path: Path, dtype: type) -> None:
    values = softmax().astype(dtype)
    assert (read_probabilities(save(tmp_path, values), "a", SHAPE, LABELS) == values).all()
    regions = np.random.default_rng(0).random((2, *SHAPE)).astype(dtype)  # which share voxels
    assert (read_probabilities(save(tmp_path, regions), "a", SHAPE, REGIONS) == regions).all()


def spoilt(place: tuple[int, ...], value: float) -> np.ndarray:
    values = softmax()
    values[place] = value
    return values


@pytest.mark.parametrize(
    "values, says",
    [
        (spoilt((1, 2, 3, 4), np.nan), "values from nan to nan"),
        (spoilt((1, 2, 3, 4), np.inf), "to inf"),
        (np.log(softmax()), "and probabilities are finite and from 0 to 1"),
        (255 * softmax(), "and probabilities are finite and from 0 to 1"),
        ((255 * softmax()).astype(np.uint8), "and type uint8"),
        (softmax() * np.float32(0.9), "sums differ from 1 by up to 0.1"),
        (np.concatenate((softmax(), softmax())), r"of shape \(6, 3, 4, 5\).* expected \(3, 3, 4, 5\)"),
        (softmax()[:2], r"of shape \(2, 3, 4, 5\)"),
        (softmax()[..., 1:], r"of shape \(3, 3, 4, 4\)"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, values: np.ndarray, says: str) -> None:
    with pytest.raises(UserError, match=f"case 'a': .*a.npz has .*{says}.*: predict again with --save_probabilities"):
        read_probabilities(save(tmp_path, values), "a", SHAPE, LABELS)


@pytest.mark.parametrize("change", ["cut", "flip"])
def test_a_damaged_archive_is_refused(tmp_path: Path, change: str) -> None:
    path = save(tmp_path, softmax())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if change == "flip" else content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot read probabilities from .*a.npz"):
        read_probabilities(path, "a", SHAPE, LABELS)
