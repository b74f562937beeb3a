"""Scores over folders of nnU-Net predictions."""

from nnunet_instance_trainers.evaluation.files import Evaluation, read_evaluation

__all__ = ["Evaluation", "read_evaluation"]
