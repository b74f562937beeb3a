from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.cellpose_files import read_seg_npy

MASKS = np.random.default_rng(0).integers(0, 300, (3, 5, 4))


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "<i8", ">u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_masks_are_read_as_numpy_reads_them(tmp_path: Path, dtype: str, order: str) -> None:
    file = tmp_path / "a_seg.npy"
    for masks in (MASKS, MASKS[1]):
        np.save(
            file, {"filename": tmp_path / "a.png", "est_diam": np.float64(3), "masks": masks.astype(dtype, order=order)}
        )
        trusted = np.load(file, allow_pickle=True).item()["masks"]
        read = read_seg_npy(file, "a")
        assert (read == trusted).all() and read.shape == masks.shape and read.flags.writeable


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


class Odd(np.ndarray):
    """Not the array itself."""


def test_nothing_in_it_is_executed(tmp_path: Path) -> None:
    file, trace = tmp_path / "a_seg.npy", tmp_path / "executed"
    np.save(file, {"masks": MASKS, "filename": Bomb(trace)})
    assert (read_seg_npy(file, "a") == MASKS).all() and not trace.exists()
    np.save(file, {"masks": Bomb(trace)})
    with pytest.raises(UserError, match="is damaged or not as Cellpose writes it"):
        read_seg_npy(file, "a")
    assert not trace.exists()
    np.load(file, allow_pickle=True)
    assert trace.exists()  # the bomb does work


def test_what_is_no_image_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a_seg.npy"
    objects = np.empty((2, 2), object)
    for masks in (MASKS / 2, objects, MASKS[0, 0], [[1, 2], [3, 4]], "masks", None, MASKS[:0], MASKS > 1):
        np.save(file, {"masks": masks})
        with pytest.raises(UserError, match="case 'a': .*a_seg.npy is damaged or not as"):
            read_seg_npy(file, "a")
    good = file.read_bytes()
    np.save(file, {"masks": MASKS})
    content = file.read_bytes()
    cut = content.replace(MASKS.tobytes(), MASKS.tobytes()[:-8])
    for bad in (
        b"",
        content[:-40],
        cut,
        pickle.dumps({"masks": MASKS}),
        good[:70],
        content.replace(b"masks", b"mesks"),
    ):
        assert bad != content
        file.write_bytes(bad)
        with pytest.raises(UserError, match="is damaged or not as"):
            read_seg_npy(file, "a")
    np.save(file, MASKS)
    with pytest.raises(UserError, match="is damaged or not as"):
        read_seg_npy(file, "a")
    with pytest.raises(UserError, match="cannot open"):
        read_seg_npy(tmp_path / "missing_seg.npy", "a")
