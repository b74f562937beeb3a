"""The command ``nnunet-instance``. Flags are nnU-Net's own; heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from nnunet_instance_trainers import __version__
from nnunet_instance_trainers.cli import (
    challenges,
    checking,
    demo,
    ensembling,
    importing,
    objects,
    preparation,
    scoring,
    study,
    trainers,
)
from nnunet_instance_trainers.errors import UserError, one_line_exit

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends with one line and exit status 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of names that the terminal has no letters for
    with one_line_exit():
        if argv and argv[0] in trainers.PASSED_THROUGH:
            trainers.pass_through(argv[0], argv[1:])  # argparse would take some of nnU-Net's flags for its own
            return
        arguments = _parser().parse_args(argv)
        if getattr(arguments, "np", 1) < 1:
            raise UserError(f"-np must be at least 1, got {arguments.np}")
        arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-instance", description="Instance-aware trainers, losses and tools for nnU-Net v2."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None] | None, help_text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.set_defaults(run=run)
        return command

    for group in (trainers, checking, importing, preparation, scoring, challenges, objects, ensembling, study, demo):
        group.add_commands(add)
    return parser
