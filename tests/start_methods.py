"""Loaders and workers under one way of starting processes: ``python start_methods.py METHOD FOLDER PROCESSES``.

Prints a line of JSON; tests/test_start_methods.py says what must be in it.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import sys
from pathlib import Path

import nnunetv2
from nnunet_datasets import Folders, make_trainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_instance_trainers.data.precompute import precompute
from nnunet_instance_trainers.evaluation.scoring.folder_scores import evaluate

BOXES = "Dataset901_Boxes"


def first_batch(trainer) -> dict:
    """What a worker process gave for training."""
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    try:
        target = next(loaders[0])["target"][0]
        methods = {process._popen.method for loader in loaders for process in loader._processes}
    finally:
        for loader in loaders:
            loader._finish()
    labels, ids = target[:, :1], target[:, 1:]
    return {
        "methods": sorted(methods),
        "shape": list(target.shape),
        "most": int(ids.max()),
        "agree": bool(((labels > 0) == (ids > 0)).all()),
    }


def main(method: str, folders: Folders, n_processes: int) -> None:
    multiprocessing.set_start_method(method)
    found = recursive_find_trainer_class_by_name("nnUNetTrainerBlob")
    assert pickle.loads(pickle.dumps(found)) is found
    plans = json.loads((folders.preprocessed / BOXES / "nnUNetPlans.json").read_text())
    said = {"trainer": found.__module__, "nnunetv2": nnunetv2.__path__[0]}
    precompute(BOXES, ["3d_fullres"], "nnUNetPlans", n_processes)
    for source in ("patch", "precomputed"):
        plans["configurations"]["3d_fullres"]["instance_training"] = {"source": source}
        said[source] = first_batch(make_trainer(found, folders, plans, "3d_fullres"))
    predicted = folders.root / "predicted"
    predicted.mkdir()
    for case in ("case_0", "case_1"):
        shutil.copy(folders.raw / BOXES / "labelsTr" / f"{case}.nii.gz", predicted)
    truth = folders.raw / BOXES / "labelsTr"
    scores = evaluate(predicted, truth, folders.root / "scores", subset=True, n_processes=n_processes)
    said["scored"] = [case["missed"] + case["false"] for case in scores.cases]
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1], Folders(Path(sys.argv[2])), int(sys.argv[3]))
