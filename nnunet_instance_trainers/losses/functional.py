"""Losses of one class as functions of probabilities and ids: short reductions of the overlap table.

Every function takes a batch of one binary problem, probabilities (B, *S) and target ids (B, *S). Classes and
regions are many binary problems; :mod:`nnunet_instance_trainers.losses.modules` averages over them.
"""

from nnunet_instance_trainers.losses.all_terms import instance_terms
from nnunet_instance_trainers.losses.blob import blob_loss, pixel_loss
from nnunet_instance_trainers.losses.center import instance_center_loss
from nnunet_instance_trainers.losses.component_weights import component_tversky, instance_mil
from nnunet_instance_trainers.losses.instance import instance_segmentation_loss
from nnunet_instance_trainers.losses.inverse import inverse_weighted_loss, inverse_weights
from nnunet_instance_trainers.losses.proximity import instance_proximity_loss
from nnunet_instance_trainers.losses.rates import false_instance_loss
from nnunet_instance_trainers.losses.topk import topk_dice_loss
from nnunet_instance_trainers.losses.voronoi import bicc_loss, voronoi_loss

__all__ = [
    "bicc_loss",
    "blob_loss",
    "component_tversky",
    "false_instance_loss",
    "instance_center_loss",
    "instance_mil",
    "instance_proximity_loss",
    "instance_segmentation_loss",
    "instance_terms",
    "inverse_weighted_loss",
    "inverse_weights",
    "pixel_loss",
    "topk_dice_loss",
    "voronoi_loss",
]
