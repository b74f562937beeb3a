"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from nnunet_instance_trainers.errors import UserError

__all__ = ["AddCommand", "add_connectivity", "add_matching", "add_pairs", "add_processes", "check_matching"]

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
    add_connectivity(command, 26)
    command.add_argument(
        "--minimum-size", type=float, default=0.0, metavar="ML", help="smaller objects do not count (default: 0 mL)"
    )


def add_connectivity(command: argparse.ArgumentParser, default: int | None) -> None:
    command.add_argument(
        "--connectivity",
        type=int,
        default=default,
        choices=[6, 18, 26],
        help="neighbours that join voxels to objects; in 2D 6 stands for 4, the others for 8 (default: 26)",
    )


def check_matching(arguments: argparse.Namespace) -> None:
    if not 0 < arguments.threshold <= 1:
        raise UserError(f"--threshold must be above 0 and at most 1, got {arguments.threshold:g}")
    if not 0 <= arguments.minimum_size < float("inf"):
        raise UserError(f"--minimum-size must be 0 mL or more, got {arguments.minimum_size:g}")


def add_pairs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--pairs", nargs="+", metavar="A:B", help="models to test against each other (default: each against the first)"
    )
