"""Work on many cases in a few processes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from nnunet_instance_trainers.errors import UserError

__all__ = ["over_cases"]

Result = TypeVar("Result")


def over_cases(
    function: Callable[[Any, str], Result], job: Any, cases: Sequence[str], n_processes: int
) -> Iterator[tuple[str, Result]]:
    """``function(job, case)`` of every case, as they get ready; the first error stops all, the caller's too.

    Raises:
        UserError: one that ``function`` raised, or a worker was killed.
    """
    if n_processes == 1 or len(cases) < 2:
        yield from ((case, function(job, case)) for case in cases)
        return
    n_processes = min(n_processes, len(cases))
    with ProcessPoolExecutor(n_processes, get_context("spawn"), _start) as pool:
        tasks = {pool.submit(function, job, case): case for case in cases}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BrokenProcessPool:
            raise UserError(_why_broken()) from None
        finally:  # also where who asks for the results fails, or asks no more
            pool.shutdown(cancel_futures=True)


def _why_broken() -> str:
    """Why workers ended: a started worker runs the script anew, and one without a guard starts workers of its own."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and Path(script).is_file() and not re.search(r"__name__\s*==", Path(script).read_text(errors="ignore")):
        return (
            f"the workers could not start: each runs {script} anew, so put what it does below 'if __name__ == "
            '"__main__":\', or use one process'
        )
    return "a worker was killed, probably for want of memory: use a smaller -np"


def _start() -> None:
    """One thread of torch for each worker, and none that waits for ever on a command that was killed."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for a torch that the work imports; to import it here takes a second
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    Thread(target=_end_with_command, daemon=True).start()


def _end_with_command() -> None:
    command = parent_process()
    assert command is not None
    command.join()
    os._exit(1)
