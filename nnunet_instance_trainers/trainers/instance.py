"""Instance losses (Rachmadi et al. 2024)."""

from nnunet_instance_trainers.training.base_trainer import nnUNetTrainerInstanceBase

__all__ = ["nnUNetTrainerFalseInstance", "nnUNetTrainerInstance", "nnUNetTrainerProximity"]


class nnUNetTrainerFalseInstance(nnUNetTrainerInstanceBase):
    """Missed and false rate beside the global loss (1, 1, 1), with the gradient that the published code lacks.

    Rachmadi et al. 2024, Eq. 5 and 6, with the published weights.
    """

    weights = {"pixel": 1.0, "missed_rate": 1.0, "false_rate": 1.0}


class nnUNetTrainerProximity(nnUNetTrainerInstanceBase):
    """Losses of objects weighed by the distance to the nearest object of the other side (1, 0.1).

    Rachmadi et al. 2024, Eq. 7 to 10, with the published weights and the form A/N + B/M; the published (A - B)^2 is
    ``proximity_form = "mse"``.
    """

    weights = {"pixel": 1.0, "proximity": 0.1}


class nnUNetTrainerInstance(nnUNetTrainerInstanceBase):
    """All seven terms; the weights are settings, by default 1 each and 0.1 for proximity.

    Rachmadi et al. 2024, Eq. 11.
    """

    weights = {
        "pixel": 1.0,
        "instance_target": 1.0,
        "instance_prediction": 1.0,
        "center": 1.0,
        "missed_rate": 1.0,
        "false_rate": 1.0,
        "proximity": 0.1,
    }
