"""Time and memory of ``nnunet-instance challenge`` on real masks.

    python scripts/benchmark_challenges.py --processes 2
    python scripts/benchmark_challenges.py --only brats-mets-2026 evaluate-surfaces

Truth are the 30 lesion masks of 182 x 218 x 182 voxels in ``../shared/data/masks_ms``, and for the challenges of cells
the 40 maps of 256 x 256 pixels in ``Dataset501_Nuclei2D``. Predictions are made from them as "mixed" and
"deleted_false" in ``../shared/golden_challenges/recipe.py``: objects deleted, moved, and false ones added. For
``kits23`` each lesion has one of three labels. ``evaluate-surfaces`` is ``evaluate --surfaces``. Prints for each the
seconds, the processor time of all processes together with their start, and the peak memory of the largest one.
"""

from __future__ import annotations

import argparse
import json
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage
from skimage import io

from nnunet_instance_trainers.evaluation.challenges.declarations import CHALLENGES

SHARED = Path(__file__).resolve().parents[2] / "shared"
CELLS = ("dsb2018", "ctc", "pannuke", "conic")
SURFACES = "evaluate-surfaces"


def write_dataset(folder: Path, labels: dict[str, int], ending: str) -> None:
    for part in ("truth", "predictions", "truth_maps", "predicted_maps"):
        (folder / part).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending}))


def write_lesions(folder: Path, n_cases: int) -> None:
    """Masks of one label in ``lesions``, and the same in three labels in ``kidneys``."""
    recipe = runpy.run_path(str(SHARED / "golden_challenges" / "recipe.py"))
    write_dataset(folder / "lesions", {"background": 0, "lesion": 1}, ".nii.gz")
    write_dataset(folder / "kidneys", {"background": 0, "kidney": 1, "tumor": 2, "cyst": 3}, ".nii.gz")
    for file in sorted((SHARED / "data" / "masks_ms").glob("*.nii.gz"))[:n_cases]:
        image = nibabel.load(file)
        truth = np.asarray(image.dataobj) > 0
        prediction = recipe["shift"](recipe["partial"](truth), (1, 0, 1)) | recipe["cubes"](truth)
        third = ndimage.label(truth | prediction, np.ones((3, 3, 3)))[0] % 3 + 1
        for part, mask in (("truth", truth), ("predictions", prediction)):
            for kind, labels in (("lesions", mask), ("kidneys", mask * third)):
                labelled = nibabel.Nifti1Image(labels.astype(np.uint8), image.affine)
                nibabel.save(labelled, folder / kind / part / file.name)


def write_nuclei(folder: Path, n_cases: int) -> None:
    recipe = runpy.run_path(str(SHARED / "golden_challenges" / "recipe.py"))
    write_dataset(folder, {"background": 0, "nucleus": 1}, ".png")
    for file in sorted((SHARED / "data" / "Dataset501_Nuclei2D" / "instancesTr").glob("*.png"))[:n_cases]:
        truth = io.imread(file)
        prediction = recipe["predictions2d"](truth.astype(np.int32))["deleted_false"]
        for part, maps, ids in (("truth", "truth_maps", truth), ("predictions", "predicted_maps", prediction)):
            io.imsave(folder / part / file.name, (ids > 0).astype(np.uint8), check_contrast=False)
            io.imsave(folder / maps / file.name, ids.astype(np.uint16), check_contrast=False)


def score(name: str, folder: Path, n_processes: int) -> None:
    """Score one challenge in this process and its workers, and print what it took as JSON."""
    where = folder / ("nuclei" if name in CELLS else "kidneys" if name == "kits23" else "lesions")
    parts = where / "predictions", where / "truth", where / f"scores_{name}"
    options: dict = {"dataset_json": where / "dataset.json", "n_processes": n_processes}
    start = time.perf_counter()
    if name == SURFACES:
        from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

        evaluate(*parts, surfaces_mm=1.0, **options)
    else:
        from nnunet_instance_trainers.evaluation.challenges.folder_challenge import score_folder

        maps = {"instances": where / "truth_maps", "predicted_instances": where / "predicted_maps"}
        score_folder(name, *parts, **options, **(maps if name in CELLS else {}))
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "processor": sum(one.ru_utime + one.ru_stime for one in used),
                "peak": max(one.ru_maxrss for one in used) / 2**20,  # on Linux in KiB
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cases", type=int, default=99, help="at most so many of each dataset")
    parser.add_argument("--only", nargs="+", default=[*CHALLENGES, SURFACES], metavar="NAME")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # in the process that scores one challenge
    arguments = parser.parse_args()
    if arguments.folder is not None:
        score(arguments.only[0], arguments.folder, arguments.processes)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lesions(folder, arguments.cases)
        write_nuclei(folder / "nuclei", arguments.cases)
        print(f"{'':28}{'seconds':>10}{'processor s':>13}{'peak GiB':>10}")
        for challenge in arguments.only:
            command = [sys.executable, __file__, "--only", challenge, "--folder", name]
            done = subprocess.run(
                [*command, "--processes", str(arguments.processes)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            took = json.loads(done.stdout) if not done.returncode else None
            columns = f"{took['seconds']:10.1f}{took['processor']:13.1f}{took['peak']:10.2f}" if took else "    failed"
            print(f"{challenge:28}{columns}", flush=True)


if __name__ == "__main__":
    main()
