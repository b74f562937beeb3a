from __future__ import annotations

import pytest

from nnunet_instance_trainers.errors import UserError, one_line_exit


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
