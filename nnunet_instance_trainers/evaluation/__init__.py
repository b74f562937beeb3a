"""Scores and pictures that speak of objects; made from the same overlap table as the losses."""

from nnunet_instance_trainers.evaluation.counts import SCORES, Counts
from nnunet_instance_trainers.evaluation.detection import Detection, Rule, detect

__all__ = ["SCORES", "Counts", "Detection", "Rule", "detect"]
