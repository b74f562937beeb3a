from __future__ import annotations

import errno
import subprocess
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


@pytest.mark.parametrize("place", ["full", "read-only", "no/folder"])
def test_what_torch_says_of_a_failed_write_is_one_line(small_disk: Path, place: str) -> None:
    """torch.save (2.15) raises no OSError."""
    import torch

    if place == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    elif place == "full":
        with pytest.raises(OSError), open(small_disk / "filler", "wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
    file = small_disk / "no" / "folder" if place == "no/folder" else small_disk / "weights.pth"
    with (
        pytest.raises(UserError, match=r"cannot write to .*weights.pth \(.+\): make room"),
        writing(Path("weights.pth")),
    ):
        torch.save({"weights": torch.zeros(9)}, file)


def test_weights_that_do_not_fit_are_one_line(small_disk: Path) -> None:
    import torch

    file = small_disk / "weights.pth"
    with pytest.raises(UserError, match=r"cannot write to .*weights.pth \(.+\): make room"), writing(file):
        torch.save({"weights": torch.zeros(10**6)}, file)


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), KeyboardInterrupt(), RuntimeError("CUDA error"), RuntimeError()]
)
def test_what_is_no_failed_write_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as info, writing(Path("out")):
        raise error
    assert info.value is error
