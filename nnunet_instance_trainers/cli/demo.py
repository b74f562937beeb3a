"""The demonstration on real images."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    demo = add("demo", _demo, "train, predict and compare on real images, in minutes on a CPU")
    demo.add_argument("-o", type=Path, default=Path("demo"), metavar="FOLDER", help="where to work (default: demo)")
    demo.add_argument(
        "--data", type=Path, metavar="FOLDER", help="a raw dataset in nnU-Net format instead of the sample"
    )
    demo.add_argument("-device", default="cpu", choices=["cpu", "cuda", "mps"], help="default: cpu")


def _demo(arguments: argparse.Namespace) -> None:
    from nnunet_instance_trainers.demonstration import run_demo

    run_demo(arguments.o, arguments.data, arguments.device)
