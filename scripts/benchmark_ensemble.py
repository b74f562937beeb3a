"""Time and memory of ``nnunet-instance ensemble`` on synthetic lesion masks.

    python scripts/benchmark_ensemble.py --processes 2 --folds 5

30 volumes of 182 x 218 x 182 voxels with 3,115 lesions in all, two models with some folds each. Prints seconds, peak
memory of the largest worker, and where the objects came from.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from math import inf
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from benchmark_evaluation import CASES, LESIONS, lesion_masks

from nnunet_instance_trainers.ensembling.ensemble_plan import EnsemblePlan, Member
from nnunet_instance_trainers.ensembling.folder_ensemble import ensemble, format_members


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folds", type=int, default=1)
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictions = {model: [folder / f"{model}{fold}" for fold in range(arguments.folds)] for model in "AB"}
        dataset = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
        for place in (*predictions["A"], *predictions["B"]):
            place.mkdir()
            (place / "dataset.json").write_text(json.dumps(dataset))
        for case, n in enumerate(np.diff(np.linspace(0, LESIONS, CASES + 1).round().astype(int))):
            for model, mask in zip("AB", lesion_masks(random, n)):
                for place in predictions[model]:
                    sitk.WriteImage(sitk.GetImageFromArray(mask), place / f"case_{case:02d}.nii.gz", True)
        plan = EnsemblePlan({"1": [Member("A", 0, 0.05), Member("B", 0.05, inf)]})
        start = time.perf_counter()
        rows = ensemble(plan, predictions, folder / "out", n_processes=arguments.processes)
        seconds = time.perf_counter() - start
    # On Linux in KiB; of the children it is the largest one's.
    who = resource.RUSAGE_SELF if arguments.processes == 1 else resource.RUSAGE_CHILDREN
    peak = resource.getrusage(who).ru_maxrss / 2**20
    print(f"\n{format_members(rows)}\n\n{seconds:.1f} s in {arguments.processes} processes, {peak:.2f} GiB per process")


if __name__ == "__main__":
    main()
