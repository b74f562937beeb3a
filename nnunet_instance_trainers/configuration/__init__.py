"""Every setting of a training, with its default, unit, meaning and check.

A setting is a class attribute of a trainer, overridden by the dictionary ``instance_training`` in the
configuration of a plans file::

    "configurations": {"3d_fullres": {..., "instance_training": {"weights": {"blob": 0.5}, "num_epochs": 250}}}

nnU-Net carries that dictionary into the results folder and the checkpoint. A configuration that inherits
another one replaces the whole dictionary.
"""

from nnunet_instance_trainers.configuration.settings import PLANS_KEY, Settings

__all__ = ["PLANS_KEY", "Settings"]
