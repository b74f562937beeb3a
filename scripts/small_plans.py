"""A copy of nnU-Net's plans with a small network, patch and batch, so that trainings fit CPUs.

    python scripts/small_plans.py -d Dataset505_RetinalLesions2D -c 2d --stages 5 --patch 128 128 --batch 4

It writes ``nnUNetPlansSmall.json``, with that configuration alone, beside ``nnUNetPlans.json``; the studies of
docs/evidence are trained with such plans. The data are those of nnUNetPlans and need not be preprocessed again.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

NAME = "nnUNetPlansSmall"


def small(plans: dict[str, Any], configuration: str, stages: int, patch: list[int], batch: int) -> dict[str, Any]:
    """Plans with the first stages of a configuration's network, two convolutions in each and 16 features in the first.

    The network must have such a stage count of its own or more; nnU-Net's default U-Net has kernel sizes and strides
    per stage, which stay.
    """
    plan = json.loads(json.dumps(plans["configurations"][configuration]))
    network = plan["architecture"]["arch_kwargs"]
    stages = min(stages, network["n_stages"])
    network.update(
        n_stages=stages,
        features_per_stage=[16 * 2**stage for stage in range(stages)],
        kernel_sizes=network["kernel_sizes"][:stages],
        strides=network["strides"][:stages],
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[2] * (stages - 1),
    )
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
