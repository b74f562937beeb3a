"""nnU-Net trainers; the class name is what ``nnUNetv2_train -tr`` takes."""

from nnunet_instance_trainers.trainers.baseline import nnUNetTrainerInstanceBaseline
from nnunet_instance_trainers.trainers.blob import nnUNetTrainerBlob, nnUNetTrainerBlobTversky
from nnunet_instance_trainers.trainers.catmil import nnUNetTrainerCATMIL
from nnunet_instance_trainers.trainers.gdf import (
    nnUNetTrainerBlobGDF,
    nnUNetTrainerFalseInstanceGDF,
    nnUNetTrainerICIGDF,
    nnUNetTrainerProximityGDF,
)
from nnunet_instance_trainers.trainers.ici import nnUNetTrainerDualICI, nnUNetTrainerICI
from nnunet_instance_trainers.trainers.instance import (
    nnUNetTrainerFalseInstance,
    nnUNetTrainerInstance,
    nnUNetTrainerProximity,
)
from nnunet_instance_trainers.trainers.inverse import (
    nnUNetTrainerInverseWeighted,
    nnUNetTrainerInverseWeightedASL,
    nnUNetTrainerInverseWeightedDice,
    nnUNetTrainerInverseWeightedFocal,
)
from nnunet_instance_trainers.trainers.pixel import (
    nnUNetTrainerGeneralizedDiceFocal,
    nnUNetTrainerTversky,
    nnUNetTrainerWeightedCE,
)
from nnunet_instance_trainers.trainers.topk import nnUNetTrainerTopKDice, nnUNetTrainerTopKDice_k30
from nnunet_instance_trainers.trainers.voronoi import (
    nnUNetTrainerBalancedCells,
    nnUNetTrainerBiCC,
    nnUNetTrainerCCDiceCE,
)

__all__ = [
    "nnUNetTrainerBalancedCells",
    "nnUNetTrainerBiCC",
    "nnUNetTrainerBlob",
    "nnUNetTrainerBlobGDF",
    "nnUNetTrainerBlobTversky",
    "nnUNetTrainerCATMIL",
    "nnUNetTrainerCCDiceCE",
    "nnUNetTrainerDualICI",
    "nnUNetTrainerFalseInstance",
    "nnUNetTrainerFalseInstanceGDF",
    "nnUNetTrainerGeneralizedDiceFocal",
    "nnUNetTrainerICI",
    "nnUNetTrainerICIGDF",
    "nnUNetTrainerInstance",
    "nnUNetTrainerInstanceBaseline",
    "nnUNetTrainerInverseWeighted",
    "nnUNetTrainerInverseWeightedASL",
    "nnUNetTrainerInverseWeightedDice",
    "nnUNetTrainerInverseWeightedFocal",
    "nnUNetTrainerProximity",
    "nnUNetTrainerProximityGDF",
    "nnUNetTrainerTopKDice",
    "nnUNetTrainerTopKDice_k30",
    "nnUNetTrainerTversky",
    "nnUNetTrainerWeightedCE",
]
