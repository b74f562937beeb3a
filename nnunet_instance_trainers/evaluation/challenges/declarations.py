"""All challenges by name."""

from __future__ import annotations

from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.evaluation.challenges.body_challenges import BODY
from nnunet_instance_trainers.evaluation.challenges.brain_lesion_challenges import BRAIN_LESIONS
from nnunet_instance_trainers.evaluation.challenges.cell_challenges import CELLS
from nnunet_instance_trainers.evaluation.challenges.challenge import Challenge
from nnunet_instance_trainers.evaluation.challenges.tumour_challenges import TUMOURS

__all__ = ["CHALLENGES", "find_challenge"]

CHALLENGES = {challenge.name: challenge for challenge in (*TUMOURS, *BRAIN_LESIONS, *BODY, *CELLS)}


def find_challenge(name: str) -> Challenge:
    """A challenge by its name.

    Raises:
        UserError: there is none.
    """
    if name not in CHALLENGES:
        raise UserError(f"there is no challenge {name!r}: choose one of 'nnunet-instance challenge --list'")
    return CHALLENGES[name]
