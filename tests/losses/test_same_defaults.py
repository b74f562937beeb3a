"""Functions and modules spell out the same options; the defaults of both are the same."""

from __future__ import annotations

import inspect

import pytest

from nnunet_instance_trainers.losses import functional, modules

PAIRS = {
    "blob_loss": modules.BlobLoss,
    "instance_segmentation_loss": modules.InstanceSegmentationLoss,
    "instance_center_loss": modules.InstanceCenterLoss,
    "false_instance_loss": modules.FalseInstanceLoss,
    "instance_proximity_loss": modules.InstanceProximityLoss,
    "topk_dice_loss": modules.TopKDiceLoss,
    "inverse_weighted_loss": modules.InverseWeightedLoss,
    "voronoi_loss": modules.VoronoiLoss,
    "bicc_loss": modules.BiCCLoss,
    "component_tversky": modules.ComponentTverskyLoss,
}


def defaults(of: object) -> dict[str, object]:
    parameters = inspect.signature(of).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("name", PAIRS)
def test_a_module_has_the_options_of_its_function(name: str) -> None:
    options, of_function = defaults(PAIRS[name]), defaults(getattr(functional, name))
    assert options and options.items() <= of_function.items()


def test_no_module_is_left_out() -> None:
    losses = {own for own in vars(modules).values() if isinstance(own, type) and issubclass(own, modules.ClassLoss)}
    assert losses - set(PAIRS.values()) == {
        modules.ClassLoss,
        modules.PixelLoss,
        modules.InstanceMILLoss,
    }  # without options
