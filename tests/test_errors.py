from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nnunet_instance_trainers.errors import UserError, one_line_exit, writing


def test_a_user_error_becomes_one_line_and_no_traceback() -> None:
    with pytest.raises(SystemExit) as exit_info, one_line_exit():
        raise UserError("case 'a' has no map: run 'mend'")
    assert exit_info.value.code == "nnunet-instance: error: case 'a' has no map: run 'mend'"  # a text means status 1


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), KeyboardInterrupt(), SystemExit(3)])
def test_other_exceptions_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as info, one_line_exit():
        raise error
    assert info.value is error


def test_what_succeeds_goes_on() -> None:
    reached = []
    with one_line_exit():
        reached.append("body")
    reached.append("after")
    assert reached == ["body", "after"]


@pytest.mark.parametrize(
    "code, reason", [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
def test_a_failed_write_names_the_place_the_reason_and_the_remedy(code: int, reason: str) -> None:
    with pytest.raises(UserError) as info, writing(Path("out/table.csv"), "do this"):
        raise OSError(code, reason)
    assert str(info.value) == f"cannot write to out/table.csv ({reason}): do this"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_what_is_no_failed_write_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as info, writing(Path("out")):
        raise error
    assert info.value is error
