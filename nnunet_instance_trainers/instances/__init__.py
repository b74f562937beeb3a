"""Functional core: objects in id images and the table of their overlaps.

Knows torch, numpy and cc3d, and nothing of nnU-Net. Losses and metrics are short functions of what is here.
"""

from nnunet_instance_trainers.instances.cells import Cells, cell_map
from nnunet_instance_trainers.instances.components import label_components, renumber
from nnunet_instance_trainers.instances.labelling import label_batch, labeller
from nnunet_instance_trainers.instances.objects import Objects
from nnunet_instance_trainers.instances.overlap import OverlapTable

__all__ = ["Cells", "Objects", "OverlapTable", "cell_map", "label_batch", "label_components", "labeller", "renumber"]
