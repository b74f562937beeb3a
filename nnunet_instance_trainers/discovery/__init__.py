"""The one folder for nnU-Net's trainer search: put it into the environment variable ``nnUNet_extTrainer``.

nnU-Net imports every module below that folder as a top-level module and then forgets it again, so classes
defined here could not be pickled. This folder therefore holds re-exports only.
"""
