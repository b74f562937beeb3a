"""Locks of a study: the system lifts them when a process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["gpu_slot", "hold", "only_one"]


def hold(file: Path) -> TextIO | None:
    """The open file, which is locked until it is closed; None where another process holds it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = open(file, "a")  # noqa: SIM115  the caller closes it
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        return None
    return stream


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Wait for another process that does the same, such as one that outlived a killed workflow."""
    stream = hold(file)
    if stream is None:
        print(f"another process is at this already and holds {file}: waiting for it", flush=True)
    while stream is None:
        time.sleep(1)
        stream = hold(file)
    with stream:
        yield


@contextmanager
def gpu_slot(folder: Path, n: int) -> Iterator[None]:
    """Take one of n GPUs for this process, in ``CUDA_VISIBLE_DEVICES``; 0 leaves that to whoever set it."""
    with ExitStack() as stack:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        while n:
            free = ((k, hold(folder / f"{k}.lock")) for k in range(n))
            taken = next(((k, stream) for k, stream in free if stream is not None), None)
            if taken is not None:
                stack.enter_context(taken[1])
                os.environ["CUDA_VISIBLE_DEVICES"] = visible[taken[0]] if taken[0] < len(visible) else str(taken[0])
                break
            time.sleep(1)
        yield
