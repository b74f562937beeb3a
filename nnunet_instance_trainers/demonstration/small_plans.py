"""Plans of the demo: a network and a schedule for minutes on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_instance_trainers.configuration import PLANS_KEY
from nnunet_instance_trainers.data.map_store import write_atomically

__all__ = ["PLANS", "SCHEDULE", "shrink_network", "write_small_plans"]

PLANS = "nnUNetPlansDemo"
SCHEDULE = {"num_epochs": 15, "num_iterations_per_epoch": 40, "num_val_iterations_per_epoch": 2, "seed": 0}


def write_small_plans(preprocessed: Path) -> str:
    """A copy of the plans with a network and a schedule for a CPU; returns the configuration to train."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    configuration = "3d_fullres" if "3d_fullres" in plans["configurations"] else "2d"
    plan = plans["configurations"][configuration]
    network = plan["architecture"]["arch_kwargs"]
    shrink_network(network, stages=4, features=16 if configuration == "2d" else 8, decoder_convolutions=1)
    steps = np.prod(network["strides"], axis=0)
    largest = 128 if configuration == "2d" else 64
    plan["patch_size"] = [
        int(max(min(size, largest) // step, 1) * step) for size, step in zip(plan["patch_size"], steps)
    ]
    plan["batch_size"] = 4 if configuration == "2d" else 2
    plan[PLANS_KEY] = dict(SCHEDULE)
    plans["plans_name"] = PLANS
    with write_atomically(preprocessed / f"{PLANS}.json") as temporary:
        temporary.write_text(json.dumps(plans, indent=4))
    return configuration


def shrink_network(network: dict[str, Any], *, stages: int, features: int, decoder_convolutions: int) -> None:
    """Keep the first stages of the network in a plans file, with two convolutions in each.

    Args:
        network: ``arch_kwargs`` of nnU-Net's U-Net, changed in place; kernel sizes and strides per stage stay.
        stages: at most so many.
        features: in the first stage; each has twice as many as the one before.
        decoder_convolutions: in each stage of the decoder.
    """
    stages = min(stages, network["n_stages"])
    network.update(
        n_stages=stages,
        features_per_stage=[features * 2**stage for stage in range(stages)],
        kernel_sizes=network["kernel_sizes"][:stages],
        strides=network["strides"][:stages],
        n_conv_per_stage=[2] * stages,
        n_conv_per_stage_decoder=[decoder_convolutions] * (stages - 1),
    )
