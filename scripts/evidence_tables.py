"""The tables of docs/evidence.md from the study.csv of a study.

    python scripts/evidence_tables.py STUDY/study.csv --reference Baseline --patients "^idrid_[0-9]+" > tables.md

Per class: the arms with means and 95 % intervals, their differences to the reference, and both by size of the objects:
what is found, and what is false. Bold is Holm-corrected p below 0.05. Lines before the tables say in which arms an
overlap score rises together with the predicted volume. ``--sizes-only`` leaves the first two tables out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nnunet_instance_trainers.study.arm_comparison import compare_arms, compare_sizes, rising_with_volume
from nnunet_instance_trainers.study.result_tables import markdown, size_markdown
from nnunet_instance_trainers.study.study_rows import Outcomes, read_outcomes


def tables(file: Path, reference: str, patients: str, sizes_only: bool = False) -> str:
    """The text of the tables."""
    outcomes = Outcomes.of(read_outcomes(file), reference)
    compared = compare_arms(outcomes, reference, patients)
    sizes = compare_sizes(outcomes, reference, patients)
    n_patients = len(np.unique(outcomes.patients(patients)))
    parts = [
        f"{len(outcomes.arms)} arms, seeds {', '.join(map(str, outcomes.seeds))}, {len(outcomes.cases)} cases of "
        f"{n_patients} patients."
    ]
    parts += [f"Not compared: {line}." for line in outcomes.left_out]
    for table in compared:
        parts.append(f"### {table.label}")
        parts += [f"Mind the volume: {line}" for line in rising_with_volume(table)]
        parts += [] if sizes_only else [markdown(table)]
        parts.append(size_markdown(sizes, table.label))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--reference", default="Baseline")
    parser.add_argument("--patients", default="", help="as in the study file")
    parser.add_argument("--sizes-only", action="store_true")
    arguments = parser.parse_args()
    print(tables(arguments.file, arguments.reference, arguments.patients, arguments.sizes_only))


if __name__ == "__main__":
    main()
