"""Scores and pictures that speak of objects; made from the same overlap table as the losses."""

from nnunet_instance_trainers.evaluation.scores import Counts, Detection, detect

__all__ = ["Counts", "Detection", "detect"]
