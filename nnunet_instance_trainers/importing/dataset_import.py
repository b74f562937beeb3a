"""Other people's labels as a raw dataset of nnU-Net: find, read, check, write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_instance_trainers.data.case_workers import over_cases
from nnunet_instance_trainers.data.text_tables import aligned, write_table
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.importing.images import CaseFiles, open_image, stored_ending
from nnunet_instance_trainers.importing.label_maps import RawLabels
from nnunet_instance_trainers.importing.object_checks import Findings, look, mend
from nnunet_instance_trainers.importing.partition import choose_test, find_patients, make_folds
from nnunet_instance_trainers.importing.raw_dataset import check_place, new_dataset, write_case, write_description
from nnunet_instance_trainers.importing.sources import Source

__all__ = ["CaseReport", "Options", "format_reports", "import_dataset"]


@dataclass(frozen=True)
class Options:
    """What may be chosen.

    Attributes:
        classes: which classes become labels, in this order; empty for all that there are.
        channels: their names; empty for ``image``, or ``R``, ``G``, ``B`` of colours.
        spacing: z, y, x in mm of TIFF volumes; empty to believe the files.
        test: what chooses the test part, see :func:`~nnunet_instance_trainers.importing.partition.choose_test`.
        patient: a regular expression that finds the patient in a case's name; folds keep patients together.
        split_pieces, minimum_voxels: see :func:`~nnunet_instance_trainers.importing.object_checks.mend`.
        n_processes: worker processes.
    """

    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    spacing: tuple[float, ...] = ()
    test: tuple[str, ...] = ()
    patient: str | None = None
    split_pieces: bool = False
    minimum_voxels: int = 1
    n_processes: int = 1


@dataclass(frozen=True)
class CaseReport:
    """What became of a case.

    Attributes:
        files: where it came from.
        size: x, y, z of its image; empty where that cannot be read.
        channels: their number.
        findings: what is odd; None where it cannot be read.
        problem: why it cannot be imported; empty where it can.
    """

    files: CaseFiles
    size: str = ""
    channels: int = 0
    findings: Findings | None = None
    problem: str = ""


@dataclass(frozen=True)
class _Job:
    """What is the same for all cases; travels to the workers."""

    source: Source
    cases: dict[str, CaseFiles]
    classes: tuple[str, ...]
    options: Options
    folder: Path | None
    ending: str


def import_dataset(source: Source, output: Path | None, options: Options) -> dict[str, CaseReport]:
    """Bring a source into nnU-Net's form.

    Args:
        source: where images and objects are.
        output: the dataset's folder, which must not be there yet; None to look only, and then a case that cannot be
            imported is no error but a problem in its report.
        options: what may be chosen.

    Returns:
        A report for each case.

    Raises:
        UserError: something does not fit; nothing was written then.
    """
    if output is not None:
        check_place(output)
    cases = source.cases()
    patients = find_patients(sorted(cases), options.patient)
    cases = _with_parts(cases, patients, options.test)
    training = {case: patients[case] for case, files in cases.items() if files.part == "Tr"}
    folds = make_folds(training) if options.patient is not None else []
    ending, reader = stored_ending(cases.values())
    classes = _chosen_classes(source.class_names(cases), options.classes)
    with _maybe(output) as folder:
        job = _Job(source, cases, classes, options, folder, ending)
        reports: dict[str, CaseReport] = {}
        with tqdm(total=len(cases), desc="look" if folder is None else "import", unit="case") as bar:
            for case, report in over_cases(_import_case, job, sorted(cases), options.n_processes):
                reports[case] = report
                bar.update()
        channels = options.channels or (tuple(source.channel_names()) if isinstance(source, RawLabels) else ())
        reports = _with_channels_compared({case: reports[case] for case in sorted(reports)}, channels)
        if folder is not None:
            _refuse_problems(reports)
            write_description(
                folder,
                channels=_channel_names(next(iter(reports.values())).channels, channels),
                classes=classes,
                n_training=len(training),
                ending=ending,
                reader=reader,
                folds=folds,
            )
            rows = [_row(case, report) for case, report in reports.items()]
            write_table(folder / "import.csv", rows, list(rows[0]))
    return reports


@contextmanager
def _maybe(output: Path | None) -> Iterator[Path | None]:
    if output is None:
        yield None
    else:
        with new_dataset(output) as folder:
            yield folder


# --- before the first case ---------------------------------------------------------------------------------


def _with_parts(cases: dict[str, CaseFiles], patients: dict[str, str], test: Sequence[str]) -> dict[str, CaseFiles]:
    chosen = choose_test(patients, test) if test else set()
    return {case: replace(files, part="Ts") if case in chosen else files for case, files in cases.items()}


def _chosen_classes(found: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise UserError(f"--classes names {unknown[0]!r}: the objects' classes are {', '.join(found)}")
    if not found:
        raise UserError("no image has an object: give the right labels with -l")
    odd = sorted({"background", "ignore"} & set(wanted or found))
    if odd:
        raise UserError(f"class {odd[0]!r} is a word of nnU-Net's: name the others with --classes, or rename it")
    return tuple(wanted or found)


# --- a case ------------------------------------------------------------------------------------------------


def _import_case(job: _Job, case: str) -> CaseReport:
    files, options = job.cases[case], job.options
    try:
        image = open_image(files.images, case, options.spacing or None)
        objects = job.source.read(case, files, image, frozenset(job.classes))
        objects = mend(objects, split_pieces=options.split_pieces, minimum_voxels=options.minimum_voxels)
        if job.folder is not None:
            write_case(job.folder, case, files, image, objects, job.classes, job.ending)
    except UserError as error:
        if job.folder is not None:
            raise
        return CaseReport(files, problem=str(error))
    size = " x ".join(map(str, reversed(image.shape[1:] if image.shape[0] == 1 else image.shape)))
    return CaseReport(files, size, image.channels, look(objects))


# --- after the last ----------------------------------------------------------------------------------------


def _with_channels_compared(reports: dict[str, CaseReport], names: Sequence[str]) -> dict[str, CaseReport]:
    """Make a problem of images that have fewer or more channels than the others, or than there are names."""
    numbers = [report.channels for report in reports.values() if report.channels]
    usual = len(names) or max(set(numbers), key=numbers.count, default=0)
    others = "there are names for" if names else "others have"

    def compared(case: str, report: CaseReport) -> CaseReport:
        if report.channels in (0, usual):
            return report
        problem = (
            f"case {case!r}: {report.files.images[0]} has {report.channels} channels, {others} {usual}: save all "
            "images with the same ones, or name them with --channels"
        )
        return replace(report, problem=problem)

    return {case: compared(case, report) for case, report in reports.items()}


def _refuse_problems(reports: dict[str, CaseReport]) -> None:
    for report in reports.values():
        if report.problem:
            raise UserError(report.problem)
    if not any(report.findings and report.findings.objects for report in reports.values()):
        raise UserError("no image has an object: give the right labels with -l")


def _channel_names(n: int, names: Sequence[str]) -> Sequence[str]:
    return names or {1: ("image",), 3: ("R", "G", "B")}.get(n, tuple(f"channel {number}" for number in range(n)))


_NOTES = ("in_pieces", "slivers", "overlapping", "without_voxels", "crowds")


def _row(case: str, report: CaseReport) -> dict[str, Any]:
    files, findings = report.files, report.findings
    assert findings is not None
    return {
        "case": case,
        "part": files.part,
        "image": ";".join(map(str, files.images)),
        "objects_from": str(files.objects[0]) if len(files.objects) == 1 else f"{len(files.objects)} masks",
        "objects": sum(findings.objects.values()),
        **{name: getattr(findings, name) for name in _NOTES},
    }


def format_reports(reports: dict[str, CaseReport], *, every_case: bool) -> str:
    """What was found, for the screen.

    Args:
        reports: of all cases.
        every_case: a line for each case; False for those with something odd.
    """
    rows = [("case", "part", "size", "channels", "objects", *(name.replace("_", " ") for name in _NOTES), "note")]
    for case, report in reports.items():
        findings = report.findings
        if report.problem or findings is None:
            rows.append((case, report.files.part, report.size, "", "", *("" for _ in _NOTES), "PROBLEM"))
            continue
        note = "may have wrapped" if findings.may_have_wrapped else "" if findings.objects else "no objects"
        counts = [getattr(findings, name) for name in _NOTES]
        if every_case or note or any(counts):
            n = sum(findings.objects.values())
            rows.append((case, report.files.part, report.size, str(report.channels), str(n), *map(str, counts), note))
    totals: Counter[str] = Counter()
    for report in reports.values():
        totals.update(report.findings.objects if report.findings else {})
    objects = ", ".join(f"{n} {name}" for name, n in sorted(totals.items())) or "no objects"
    tests = sum(report.files.part == "Ts" for report in reports.values())
    lines = [f"{len(reports)} cases, {tests} of them for testing; objects: {objects}"]
    if len(rows) > 1:
        lines += ["", aligned(rows)]
    problems = [report.problem for report in reports.values() if report.problem]
    return "\n".join([*lines, *(["", *problems] if problems else [])])
