"""Work on many cases in a few processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from nnunet_instance_trainers.errors import UserError

__all__ = ["over_cases"]

Result = TypeVar("Result")


def over_cases(
    function: Callable[[Any, str], Result], job: Any, cases: Sequence[str], n_processes: int
) -> Iterator[tuple[str, Result]]:
    """``function(job, case)`` of every case, as they get ready; the first error stops all.

    Raises:
        UserError: one that ``function`` raised, or a worker was killed.
    """
    if n_processes == 1 or len(cases) < 2:
        yield from ((case, function(job, case)) for case in cases)
        return
    n_processes = min(n_processes, len(cases))
    with ProcessPoolExecutor(n_processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        tasks = {pool.submit(function, job, case): case for case in cases}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except UserError:
            pool.shutdown(cancel_futures=True)
            raise
        except BrokenProcessPool:
            raise UserError("a worker was killed, probably for want of memory: use a smaller -np") from None
