"""Real masks and altered copies of them that stand for predictions; the same in every run.

Shared by tests and by scripts/freeze_panoptica.py, which runs in an environment of its own: needs numpy, scipy,
nibabel and scikit-image only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from skimage import io

LESIONS = ("lit05", "lit10", "lit24")
NUCLEI = ("nuct_003", "nuct_007")


# In voxels: lesions are a few voxels wide, nuclei a dozen pixels.
_REACH = {2: 4, 3: 1}


def eroded(mask: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Thinner from one side along the first axis; the thinnest vanish."""
    return mask & np.roll(mask, _REACH[mask.ndim], axis=0)


def shifted(mask: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.roll(mask, _REACH[mask.ndim], axis=-1)


def merged(mask: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Thicker, so that neighbours run into one."""
    return ndimage.binary_dilation(mask, iterations=_REACH[mask.ndim])


def partly_deleted(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Without a third of its objects; holes in the rest and some specks elsewhere."""
    ids, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    kept = np.append(False, random.uniform(size=n) < 2 / 3)[ids]
    holes, specks = random.uniform(size=mask.shape) < 0.1, random.uniform(size=mask.shape) < 1e-4
    return (kept & ~holes) | specks


ALTERATIONS = (eroded, shifted, merged, partly_deleted)


def altered_masks(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, target instances (*S) and predicted mask (*S), from the folder of sample data.

    Lesions are the connected components of their mask; nuclei have annotators' maps, in which they touch.
    """
    full = np.ones((3, 3, 3))
    targets = {
        name: ndimage.label(np.asarray(nibabel.load(data / "masks_ms" / f"{name}.nii.gz").dataobj) > 0, full)[0]
        for name in LESIONS
    }
    for name in NUCLEI:
        targets[name] = io.imread(data / "Dataset501_Nuclei2D" / "instancesTs" / f"{name}.png").astype(np.int32)
    for name, target in targets.items():
        # A rim keeps rolled objects from coming in again on the other side.
        box = ndimage.find_objects((target > 0).astype(np.uint8))[0]
        target = np.pad(target[box], 5)
        for seed, alter in enumerate(ALTERATIONS):
            yield f"{name} {alter.__name__}", target, alter(target > 0, np.random.default_rng(seed))
