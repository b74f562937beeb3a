"""Time and memory of ``nnunet-instance evaluate`` on synthetic lesion masks.

    python scripts/benchmark_evaluation.py --processes 2

30 masks of 182 x 218 x 182 voxels with 3,115 lesions in all, most of them tiny and a few large, against a
prediction that misses some, shifts the others and invents a few. Prints seconds, peak memory of the largest
worker, and the table.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate, format_table

SHAPE = (182, 218, 182)
CASES, LESIONS = 30, 3115


def lesion_masks(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask with n lesions that do not touch, and a prediction of it."""
    target, prediction = (np.zeros(SHAPE, dtype=np.uint8) for _ in range(2))
    taken = np.zeros(SHAPE, dtype=bool)
    placed = 0
    while placed < n:
        radius = min(np.exp(random.normal(0.5, 0.6)), 18)
        reach = int(radius) + 1
        centre = [random.integers(reach + 2, size - reach - 2) for size in SHAPE]
        box = tuple(slice(c - reach, c + reach + 1) for c in centre)
        if taken[box].any():
            continue
        taken[tuple(slice(c - reach - 1, c + reach + 2) for c in centre)] = True
        axes = np.ogrid[(slice(-reach, reach + 1),) * 3]
        ball = sum(axis**2 for axis in axes) <= radius**2
        target[box] |= ball
        if random.uniform() < 0.7:
            shift = random.integers(-1, 2, size=3)
            prediction[tuple(slice(a.start + s, a.stop + s) for a, s in zip(box, shift))] |= ball
        elif random.uniform() < 0.3:
            prediction[tuple(random.integers(2, size - 2) for size in SHAPE)] = 1
        placed += 1
    return target, prediction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    n_processes = parser.parse_args().processes
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("labels", "predictions"):
            (folder / part).mkdir()
        for case, n in enumerate(np.diff(np.linspace(0, LESIONS, CASES + 1).round().astype(int))):
            for part, mask in zip(("labels", "predictions"), lesion_masks(random, n)):
                sitk.WriteImage(sitk.GetImageFromArray(mask), folder / part / f"case_{case:02d}.nii.gz")
        dataset = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
        (folder / "predictions" / "dataset.json").write_text(json.dumps(dataset))
        start = time.perf_counter()
        evaluation = evaluate(folder / "predictions", folder / "labels", folder / "scores", n_processes=n_processes)
        seconds = time.perf_counter() - start
    # On Linux in KiB; of the children it is the largest one's.
    who = resource.RUSAGE_SELF if n_processes == 1 else resource.RUSAGE_CHILDREN
    peak = resource.getrusage(who).ru_maxrss / 2**20
    print(
        f"\n{format_table(evaluation)}\n\n{seconds:.1f} s in {n_processes} processes, peak {peak:.2f} GiB per process"
    )


if __name__ == "__main__":
    main()
