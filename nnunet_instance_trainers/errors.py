"""The one exception of this package that is meant to be read by users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MEND", "UserError", "one_line_exit", "writing"]

MEND = "make room or allow it, then run the same command again"

# In what torch.save (2.15) raises on a full disk, in a read-only folder and in one that is gone: RuntimeErrors.
_TORCH_CANNOT_WRITE = ("inline_container", "PytorchStreamWriter", "iostream", "Parent directory")


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line: what is wrong, where (case, key or file), and what to do about it.
    """


@contextmanager
def one_line_exit() -> Iterator[None]:
    """Turn a :class:`UserError` into its one line on stderr and exit status 1.

    nnU-Net's commands have no error handling of their own, and ``SystemExit`` with a message is the one
    exception that Python reports without a traceback. So the trainers end ``nnUNetv2_train`` as tidily as
    ``nnunet-instance`` ends.
    """
    try:
        yield
    except UserError as error:
        raise SystemExit(f"nnunet-instance: error: {error}") from None


@contextmanager
def writing(place: Path, remedy: str = MEND) -> Iterator[None]:
    """Turn a write that fails, on a full disk or in a read-only folder, into a :class:`UserError` with the place.

    Nothing but writing belongs inside: every ``OSError`` is taken for a failed write, and each ``RuntimeError`` that
    ``torch.save`` raises for one.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {place} ({error.strerror or error}): {remedy}") from None
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        if not any(sign in reason for sign in _TORCH_CANNOT_WRITE):
            raise
        raise UserError(f"cannot write to {place} ({reason}): {remedy}") from None
