"""Freeze panoptica's numbers for tests/evaluation/test_panoptica.py.

panoptica's pins do not go together with nnU-Net's, so it runs in an environment of its own:

    python -m venv panoptica-env
    panoptica-env/bin/pip install panoptica nibabel
    panoptica-env/bin/python scripts/freeze_panoptica.py ../shared/data

Writes tests/evaluation/panoptica.json: version, command, and for each altered mask, quality and threshold what
panoptica counts with optimal one-to-one matching.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import cc3d
import numpy as np
from panoptica import InputType, Panoptica_Evaluator
from panoptica.instance_matcher import MaxBipartiteMatching
from panoptica.metrics import Metric

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from altered_masks import altered_masks  # noqa: E402

SETTINGS = (("iou", 0.5), ("iou", 0.2), ("dice", 0.5), ("dice", 0.7))
METRICS = {"iou": Metric.IOU, "dice": Metric.DSC}
NAMES = {
    "tp": "tp",
    "fp": "fp",
    "fn": "fn",
    "rq": "rq",
    "sq_iou": "sq",
    "pq_iou": "pq",
    "sq_dice": "sq_dsc",
    "pq_dice": "pq_dsc",
}


def judged(target: np.ndarray, prediction: np.ndarray, match: str, threshold: float) -> dict[str, float]:
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.UNMATCHED_INSTANCE,
        instance_matcher=MaxBipartiteMatching(METRICS[match], threshold),
        instance_metrics=[Metric.DSC, Metric.IOU],
        global_metrics=[],
    )
    connectivity = {2: 8, 3: 26}[target.ndim]
    components = cc3d.connected_components(prediction.astype(np.uint8), connectivity=connectivity)
    result = evaluator.evaluate(components.astype(np.uint16), target.astype(np.uint16), verbose=False)["ungrouped"]
    return {ours: round(float(getattr(result, theirs)), 9) for ours, theirs in NAMES.items()}


def main() -> None:
    frozen = {
        name: {f"{match} {threshold}": judged(target, prediction, match, threshold) for match, threshold in SETTINGS}
        for name, target, prediction in altered_masks(Path(sys.argv[1]))
    }
    content = {
        "panoptica": version("panoptica"),
        "numpy": np.__version__,
        "command": "python scripts/freeze_panoptica.py ../shared/data",
        "scores": frozen,
    }
    (ROOT / "tests" / "evaluation" / "panoptica.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
