"""The worked example of docs/ensembling.md: real lesion masks, and models made up from them.

Each model is right about nine lesions of ten in its own sizes and about half of the others; what it invents has the
shape of real lesions, mirrored to the other side. The second example differs in that the model for small lesions
draws them one voxel fatter.

    python scripts/example_fit.py ../shared/data/masks_ms /tmp/example
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from nnunet_instance_trainers import cli
from nnunet_instance_trainers.instances import label_components

EDGE_ML, FOLDS = 0.05, 5
NAME = "Dataset600_Example"


def main(masks: Path, root: Path) -> None:
    for example, score in (("specialists", "f1_iou50"), ("specialists", "f1"), ("fatter", "f1")):
        make(masks, root / example, fatter=example == "fatter")
        os.environ.update(nnUNet_preprocessed=str(root / example / "pre"), nnUNet_results=str(root / example / "res"))
        cli.main(["fit-ensemble", "-d", "600", "-c", "3d_fullres", "--trainers", "Small", "Large", "--score", score,
                  "-o", str(root / f"{example}_{score}.json"), "-np", "2"])  # fmt: skip


def make(masks: Path, root: Path, *, fatter: bool) -> None:
    preprocessed, random = root / "pre" / NAME, np.random.default_rng(0)
    (preprocessed / "gt_segmentations").mkdir(parents=True, exist_ok=True)
    dataset = {"labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
    (preprocessed / "dataset.json").write_text(json.dumps(dataset))
    (preprocessed / "nnUNetPlans.json").write_text("{}")
    for i, file in enumerate(sorted(masks.glob("*.nii.gz"))):
        image = nibabel.load(file)
        target = np.asarray(image.dataobj) > 0
        ids, n = label_components(target)
        volumes = np.bincount(ids.ravel(), minlength=n + 1) * np.prod(image.header.get_zooms()[:3]) / 1000
        save(target, image.affine, preprocessed / "gt_segmentations" / file.name)
        for model, own in (("Small", volumes < EDGE_ML), ("Large", volumes >= EDGE_ML)):
            right = np.where(own, 0.9, 0.5)
            found, invented = random.uniform(size=n + 1) < right, random.uniform(size=n + 1) > right
            found[0] = invented[0] = False
            prediction = found[ids] | invented[ids][::-1]
            if fatter and model == "Small":
                prediction = ndimage.binary_dilation(prediction)
            folder = root / "res" / NAME / f"{model}__nnUNetPlans__3d_fullres"
            (folder / f"fold_{i % FOLDS}" / "validation").mkdir(parents=True, exist_ok=True)
            (folder / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}}))
            save(prediction, image.affine, folder / f"fold_{i % FOLDS}" / "validation" / file.name)


def save(mask: np.ndarray, affine: np.ndarray, file: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), affine), file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
