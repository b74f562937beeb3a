"""Locks that go with their process, and GPUs that are each taken once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_instance_trainers.study.locks import gpu_slot, hold, only_one

HOLDER = "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]); \
from nnunet_instance_trainers.study.locks import hold; lock = hold(Path(sys.argv[1])); print('held', flush=True); \
time.sleep(60)"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock"), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert hold(tmp_path / "lock") is None
        holder.kill()
        holder.wait()
    with only_one(tmp_path / "lock"):
        assert hold(tmp_path / "lock") is None


def test_each_gpu_is_taken_once_and_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with gpu_slot(tmp_path, 2):
        seen.append(_visible())
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        with gpu_slot(tmp_path, 2):
            seen.append(_visible())
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
            monkeypatch.setattr(time, "sleep", _no_more)
            with pytest.raises(TimeoutError), gpu_slot(tmp_path, 2):
                pass
    assert seen == ["4", "7"]
    with gpu_slot(tmp_path, 2):
        assert _visible() == "4"


def test_without_slots_the_variable_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with gpu_slot(tmp_path, 0):
        assert _visible() == "3"


def _visible() -> str:
    import os

    return os.environ["CUDA_VISIBLE_DEVICES"]


def _no_more(_: float) -> None:
    raise TimeoutError
