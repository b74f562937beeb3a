"""nnU-Net's commands as error messages name them."""

from __future__ import annotations

import re

__all__ = ["dataset_id", "plan_command", "preprocess_command"]


def dataset_id(dataset_name: str) -> str:
    """The number in a dataset's name as ``-d`` takes it; the name itself where it has none.

    Example:
        >>> dataset_id("Dataset027_ACDC"), dataset_id("Dataset1014_Nuclei")
        ('27', '1014')
    """
    number = re.match(r"Dataset(\d+)_", dataset_name)
    return str(int(number[1])) if number else dataset_name


def plan_command(dataset_name: str) -> str:
    """The command that plans a dataset and preprocesses all of its configurations."""
    return f"nnUNetv2_plan_and_preprocess -d {dataset_id(dataset_name)}"


def preprocess_command(dataset_name: str, configuration: str, plans_name: str) -> str:
    """The command that makes the files of a configuration anew."""
    return f"nnUNetv2_preprocess -d {dataset_id(dataset_name)} -plans_name {plans_name} -c {configuration}"
