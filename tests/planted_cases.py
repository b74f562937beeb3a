"""Cases whose best ensemble is known, for the tests of the fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nnunet_instance_trainers.ensemble_fitting.object_lists import ObjectLists

VOXEL_ML = 0.001
N_CASES = 20
GROUPS = np.arange(N_CASES) % 5


def lists_of(voxels: np.ndarray, real: np.ndarray, seen: np.ndarray, peak: np.ndarray | None = None) -> ObjectLists:
    """Objects of some sizes, each the same voxels wherever it is: in the target (N,), and by sources (N, S)."""
    node = np.where(seen, np.cumsum(seen.ravel()).reshape(seen.shape) - 1, -1)
    row, source = np.nonzero(seen)
    pairs = [(a, b) for nodes in node for i, a in enumerate(nodes) for b in nodes[i + 1 :] if a >= 0 and b >= 0]
    return ObjectLists(
        source=source,
        voxels=voxels[row],
        peak=np.full(len(row), np.inf) if peak is None else peak[row],
        cut=np.zeros(len(row), bool),
        touching=np.array(pairs, int).reshape(-1, 2),
        sharing=np.array(pairs, int).reshape(-1, 2),
        atoms=node,
        atom_instance=np.where(real, np.cumsum(real) - 1, -1),
        atom_voxels=voxels,
        instance_voxels=voxels[real],
        instance_cut=np.zeros(real.sum(), bool),
        voxel_ml=VOXEL_ML,
    )


def cases(
    seen: Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray],
    seed: int = 0,
    n: int = 40,
    n_cases: int = N_CASES,
) -> list:
    """Cases of one class: half of the objects are real, and ``seen`` says who sees which."""
    random, result = np.random.default_rng(seed), []
    for _ in range(n_cases):
        voxels = np.exp(random.uniform(np.log(5), np.log(5000), n)).astype(int)
        real = random.uniform(size=n) < 0.5
        result.append([lists_of(voxels, real, seen(random, voxels * VOXEL_ML, real))])
    return result


def noisy(random: np.random.Generator, real: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(N,) bool: real objects are seen with this probability, others with the rest of it."""
    return random.uniform(size=len(real)) < np.where(real, right, 1 - right)


def specialists(random: np.random.Generator, ml: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.stack([noisy(random, real, np.where(small, 0.9, 0.5)) for small in (ml < 0.2, ml >= 0.2)], 1)
