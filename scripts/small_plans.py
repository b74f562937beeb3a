"""A copy of nnU-Net's plans with a small network, patch and batch, so that trainings fit CPUs.

    python scripts/small_plans.py -d Dataset505_RetinalLesions2D -c 2d --stages 5 --patch 128 128 --batch 4

It writes ``nnUNetPlansSmall.json``, with that configuration alone, beside ``nnUNetPlans.json``; the studies of
docs/evidence are trained with such plans. The data are those of nnUNetPlans and need not be preprocessed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

from nnunet_instance_trainers.demonstration.small_plans import shrink_network

NAME = "nnUNetPlansSmall"


def small(plans: dict[str, Any], configuration: str, stages: int, patch: list[int], batch: int) -> dict[str, Any]:
    """Plans with the first stages of a configuration's network, two convolutions in each, 16 features in the first."""
    plan = copy.deepcopy(plans["configurations"][configuration])
    shrink_network(plan["architecture"]["arch_kwargs"], stages=stages, features=16, decoder_convolutions=2)
    plan.update(patch_size=patch, batch_size=batch)
    return {**plans, "plans_name": NAME, "configurations": {configuration: plan}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, metavar="DATASET", help="full name")
    parser.add_argument("-c", required=True, metavar="CONFIGURATION")
    parser.add_argument("--stages", type=int, required=True)
    parser.add_argument("--patch", type=int, nargs="+", required=True)
    parser.add_argument("--batch", type=int, required=True)
    arguments = parser.parse_args()
    folder = Path(os.environ["nnUNet_preprocessed"]) / arguments.d
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    chosen = small(plans, arguments.c, arguments.stages, arguments.patch, arguments.batch)
    (folder / f"{NAME}.json").write_text(json.dumps(chosen, indent=4))
    print(f"wrote {folder / NAME}.json")


if __name__ == "__main__":
    main()
