"""Other people's labels in."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_instance_trainers.cli.arguments import AddCommand, add_processes
from nnunet_instance_trainers.errors import UserError

__all__ = ["add_commands"]


def add_commands(add: AddCommand) -> None:
    command = add("import", _import, "make a raw dataset with instance maps of images and other programs' labels")
    command.add_argument("-i", required=True, type=Path, metavar="IMAGES", help="folder of images, or a raw dataset")
    command.add_argument(
        "-l",
        nargs="+",
        default=[],
        metavar="[CLASS=]LABELS",
        help="folder of maps of ids, of masks or of GeoJSON files, or a COCO file; with CLASS= all of it is that class "
        "(default: they lie in IMAGES)",
    )
    command.add_argument("-o", type=Path, metavar="DATASET", help="new folder, named like Dataset123_Lesions")
    command.add_argument("--dry-run", action="store_true", help="print what would be imported, and write nothing")
    command.add_argument("--suffix", metavar="TEXT", help="what follows the case in names of maps, such as _masks.tif")
    command.add_argument(
        "--classes", nargs="+", default=[], metavar="NAME", help="take these, in this order (default: all)"
    )
    command.add_argument(
        "--channels",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of the images, such as CT, which nnU-Net normalises by",
    )
    command.add_argument(
        "--spacing", nargs=3, type=float, default=[], metavar=("Z", "Y", "X"), help="of TIFF volumes in mm"
    )
    command.add_argument(
        "--test",
        nargs="+",
        default=[],
        metavar="WHAT",
        help="the test part: names, patterns, a file of names, or a share",
    )
    command.add_argument(
        "--patient",
        metavar="REGEX",
        help="finds the patient in a case's name, by its first group; folds and a test share keep patients together",
    )
    command.add_argument("--split-pieces", action="store_true", help="pieces of an object become objects of their own")
    command.add_argument(
        "--minimum-voxels", type=int, default=1, metavar="N", help="smaller objects become background (default: 1)"
    )
    add_processes(command)


def _import(arguments: argparse.Namespace) -> None:
    if arguments.o is None and not arguments.dry_run:
        raise UserError("-o is missing: give a new folder, named like Dataset123_Lesions, or use --dry-run")
    if arguments.minimum_voxels < 1:
        raise UserError(f"--minimum-voxels must be at least 1, got {arguments.minimum_voxels}")
    if any(not 0 < edge < float("inf") for edge in arguments.spacing):
        raise UserError(f"--spacing must be above 0 mm, got {' '.join(f'{edge:g}' for edge in arguments.spacing)}")
    from nnunet_instance_trainers.data.nnunet_commands import dataset_id, plan_command
    from nnunet_instance_trainers.importing.dataset_import import Options, format_reports, import_dataset
    from nnunet_instance_trainers.importing.sources import find_source

    options = Options(
        classes=tuple(arguments.classes),
        channels=tuple(arguments.channels),
        spacing=tuple(arguments.spacing),
        test=tuple(arguments.test),
        patient=arguments.patient,
        split_pieces=arguments.split_pieces,
        minimum_voxels=arguments.minimum_voxels,
        n_processes=arguments.np,
    )
    source = find_source(arguments.i, arguments.l, arguments.suffix)
    reports = import_dataset(source, None if arguments.dry_run else arguments.o, options)
    print(f"\n{format_reports(reports, every_case=arguments.dry_run)}")
    problems = sum(bool(report.problem) for report in reports.values())
    if problems:
        raise UserError(f"{problems} of {len(reports)} cases cannot be imported: mend what the lines above name")
    if not arguments.dry_run:
        number = dataset_id(arguments.o.name)
        print(
            f"\nwrote {arguments.o}; in nnU-Net's folder of raw datasets go on with\n"
            f"{plan_command(arguments.o.name)} --verify_dataset_integrity\nnnunet-instance precompute -d {number}"
        )
