"""What a user reads when a training stops because of a file, and not because of a mistake in the code."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_instance_trainers.errors import UserError

__all__ = ["GO_ON", "explained"]

GO_ON = "make room or allow it, then go on with --c"

_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Failures that only writing has."""


@contextmanager
def explained(output: Path, check_data: Callable[[], None], log: Callable[[str], None]) -> Iterator[None]:
    """Say why a training failed, where a file is the reason.

    nnU-Net's background workers print what went wrong and die, and the training then knows no more than that they
    are dead. So after any failure the files are looked at once more.

    Args:
        output: the folder of results.
        check_data: raises a ``UserError`` if a file that the training reads is missing or damaged.
        log: is told of a failure that such a file explains, for it may have had another reason.

    Raises:
        UserError: naming the file; any other failure passes as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _CANNOT_WRITE or _may_not_write(error, output):
            raise UserError(f"cannot write to {error.filename or output} ({error.strerror}): {GO_ON}") from None
        _look_for_reason(error, check_data, log)
        raise
    except Exception as error:  # a UserError too: one from a loader does not know the command that mends
        _look_for_reason(error, check_data, log)
        raise


def _may_not_write(error: OSError, output: Path) -> bool:
    """Whether it is a folder of the results that allows no writing; files elsewhere may be meant to be read."""
    if not isinstance(error, PermissionError) or not isinstance(error.filename, (str, Path)):
        return False
    return Path(error.filename).is_relative_to(output.parent)  # nnU-Net's own copies lie beside the folds


def _look_for_reason(error: Exception, check_data: Callable[[], None], log: Callable[[str], None]) -> None:
    try:
        check_data()
    except UserError:
        log(f"the training failed with {type(error).__name__}: {error}")
        raise
