"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from nnunet_instance_trainers.errors import UserError

__all__ = ["AddCommand", "add_matching", "add_pairs", "add_processes", "check_threshold"]

# (name, function that runs it, help) -> the command's parser
AddCommand = Callable[[str, Callable[[argparse.Namespace], None] | None, str], argparse.ArgumentParser]


def add_processes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-np",
        type=int,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="worker processes (default: %(default)s)",
    )


def add_matching(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--instances", type=Path, metavar="DIR", help="annotators' instance maps, so that touching objects stay apart"
    )
    command.add_argument(
        "--match",
        default="overlap",
        choices=["overlap", "iou", "dice", "greedy", "share"],
        help="an instance is found by any shared voxel; one-to-one by IoU or Dice at the greatest sum, or greedily by "
        "falling IoU; or by the share of it that is covered (default: overlap)",
    )
    command.add_argument(
        "--threshold", type=float, default=0.5, metavar="T", help="least IoU, Dice or share of a match (default: 0.5)"
    )


def check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise UserError(f"--threshold must be above 0 and at most 1, got {threshold:g}")


def add_pairs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pairs", nargs="+", metavar="A:B", help="models to test against each other (default: each against the first)"
    )
