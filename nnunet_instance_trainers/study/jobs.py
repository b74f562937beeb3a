"""What each job of the workflow runs: ``python -m nnunet_instance_trainers.study.jobs KIND PLAN ID``.

A job writes its stamp when it is done, and where it fails a line why, which the report quotes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_instance_trainers.data.map_store import write_atomically
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.study.locks import gpu_slot

__all__ = ["failure_file", "main"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("plan", type=Path)
    parser.add_argument("id")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--partial", action="store_true", help="results of what is there")
    arguments = parser.parse_args(argv)
    _set_threads(arguments.threads)
    folder = arguments.plan.resolve().parent
    with _failure_noted(failure_file(folder, arguments.kind, arguments.id)):
        from nnunet_instance_trainers.linking import set_variable
        from nnunet_instance_trainers.study.job_plan import read_plan

        set_variable()
        study, plan = read_plan(arguments.plan)
        job = plan["jobs"][arguments.kind][arguments.id]
        with gpu_slot(folder / ".gpus", plan.get("gpus", 0) if arguments.kind in ("train", "predict") else 0):
            stamp = _functions(arguments.kind)(study, plan, job, arguments.threads)
        if arguments.partial:
            return
        with write_atomically(folder / "jobs" / arguments.kind / f"{arguments.id}.json") as temporary:
            temporary.write_text(json.dumps(stamp, indent=1))


def failure_file(folder: Path, kind: str, name: str) -> Path:
    """Where a job says why it failed."""
    return folder / "jobs" / "failed" / f"{kind}-{name}.txt"


def _functions(kind: str):
    if kind in ("prepare", "train", "predict"):
        from nnunet_instance_trainers.study import training_jobs as module
    elif kind == "results":
        from nnunet_instance_trainers.study import result_folder as module
    else:
        from nnunet_instance_trainers.study import scoring_jobs as module
    return getattr(module, kind)


def _set_threads(n: int) -> None:
    """So many for each library and for nnU-Net, which takes all cores otherwise; what the user has set stays."""
    for name in _THREADS:
        os.environ[name] = str(n)
    os.environ.setdefault("nnUNet_n_proc_DA", str(n - 1))
    os.environ.setdefault("nnUNet_def_n_proc", str(n))


@contextmanager
def _failure_noted(file: Path) -> Iterator[None]:
    file.unlink(missing_ok=True)
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = str(error).removeprefix("nnunet-instance: error: ").strip() or type(error).__name__
        if not isinstance(error, (UserError, SystemExit)):
            reason = f"{type(error).__name__}: {reason}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(reason.splitlines()[0] + "\n", encoding="utf-8")
        if isinstance(error, UserError):
            raise SystemExit(f"nnunet-instance: error: {error}") from None
        raise


if __name__ == "__main__":
    sys.exit(main())
