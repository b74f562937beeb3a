"""Lists of objects out of segmentations."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand, add_processes
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    objects = add("objects", _objects, "list every object of a folder of segmentations, and what became of it")
    objects.add_argument("-i", required=True, type=Path, metavar="PRED", help="folder of segmentations")
    objects.add_argument("-o", required=True, type=Path, metavar="OUT", help="folder for tables, maps and the page")
    objects.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="segmentations of an earlier time point with the same names and grids: new, vanished, growing, shrinking, "
        "merged, split",
    )
    objects.add_argument(
        "--growth", type=float, default=25.0, metavar="PERCENT", help="growing from this change on (default: 25)"
    )
    objects.add_argument(
        "--shrinkage", type=float, default=25.0, metavar="PERCENT", help="shrinking from this loss on (default: 25)"
    )
    least = objects.add_mutually_exclusive_group()
    least.add_argument("--min-volume-ml", type=float, metavar="ML", help="leave smaller objects out")
    least.add_argument("--min-area-mm2", type=float, metavar="MM2", help="the same for 2D images")
    least.add_argument("--min-voxels", type=float, metavar="N", help="the same for images without a spacing")
    objects.add_argument(
        "--connectivity",
        type=int,
        default=26,
        choices=[6, 18, 26],
        help="neighbours that join voxels to objects; in 2D 6 stands for 4, the others for 8 (default: 26)",
    )
    objects.add_argument(
        "--probabilities",
        type=Path,
        metavar="DIR",
        help="folder of .npz for the mean and peak probability (default: PRED, where every case has one)",
    )
    objects.add_argument(
        "--hysteresis",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="objects are the components of probability > LOW whose peak exceeds HIGH, not those of the segmentation",
    )
    objects.add_argument(
        "--bins",
        nargs="+",
        type=float,
        metavar="SIZE",
        help="edges of size bins in mL (default: 0.01 0.05 0.1 0.5 1 5), in 2D in mm^2, without a spacing in voxels "
        "(default: 10 50 100 500 1000 5000)",
    )
    objects.add_argument("--no-maps", action="store_true", help="write no instance maps, and no pictures of cases")
    objects.add_argument("-djfile", type=Path, metavar="FILE", help="dataset.json (default: in or above PRED)")
    add_processes(objects)


def _objects(arguments: argparse.Namespace) -> None:
    bins = arguments.bins
    if bins is not None and (bins != sorted(set(bins)) or not 0 < bins[0] <= bins[-1] < float("inf")):
        raise UserError(f"--bins must be positive and ascending, got {' '.join(f'{edge:g}' for edge in bins)}")
    if arguments.hysteresis is not None and not 0 <= arguments.hysteresis[0] <= arguments.hysteresis[1] < 1:
        low, high = arguments.hysteresis
        raise UserError(f"--hysteresis takes 0 <= LOW <= HIGH < 1, got {low:g} {high:g}")
    if not 0 < arguments.growth < float("inf"):
        raise UserError(f"--growth must be above 0 %, got {arguments.growth:g}")
    if not 0 < arguments.shrinkage < 100:
        raise UserError(f"--shrinkage must be above 0 % and below 100 %, got {arguments.shrinkage:g}")
    from nnunet_instance_trainers.objects.changes import ChangeRule
    from nnunet_instance_trainers.objects.folder_objects import format_totals, list_objects
    from nnunet_instance_trainers.objects.page import PAGE
    from nnunet_instance_trainers.objects.size_units import UNITS

    asked = ((unit, getattr(arguments, unit.option.strip("-").replace("-", "_"))) for unit in UNITS)
    least = next(((unit, value) for unit, value in asked if value is not None), None)
    if least is not None and not 0 <= least[1] < float("inf"):
        raise UserError(f"{least[0].option} must be 0 or more, got {least[1]:g}")
    list_objects(
        arguments.i,
        arguments.o,
        reference=arguments.reference,
        probabilities=arguments.probabilities,
        hysteresis=None if arguments.hysteresis is None else tuple(arguments.hysteresis),
        least=least,
        connectivity=arguments.connectivity,
        bins=bins,
        rule=ChangeRule(arguments.growth / 100, arguments.shrinkage / 100),
        maps=not arguments.no_maps,
        dataset_json=arguments.djfile,
        n_processes=arguments.np,
    )
    print(f"\n{format_totals(arguments.o)}\n\nobjects: {arguments.o}, page: {arguments.o / PAGE}")
