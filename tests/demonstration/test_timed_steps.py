"""The demo's steps; the demo itself takes minutes and is run by ``make demo``."""

from __future__ import annotations

import pytest

from nnunet_instance_trainers.demonstration import timed_steps
from nnunet_instance_trainers.demonstration.timed_steps import TimedSteps
from nnunet_instance_trainers.errors import UserError


def test_each_step_has_a_log_and_a_line_that_says_how_long_it_took(tmp_path, monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 70.4])
    monkeypatch.setattr(timed_steps, "perf_counter", lambda: next(clock))
    steps = TimedSteps(tmp_path / "logs")
    steps.run("plan", ["python", "-c", "print('planned')"])
    steps.run("train it", ["python", "-c", "print('Epoch time: 1 s')"], epochs=1)
    assert steps.times().splitlines() == ["plan           3 s", "train it      60 s", "all steps     63 s"]
    assert (tmp_path / "logs" / "01_plan.log").read_text() == "planned\n"
    assert (tmp_path / "logs" / "02_train_it.log").is_file()


def test_a_step_that_fails_ends_with_its_last_line_and_its_log(tmp_path):
    with pytest.raises(UserError, match=r"failed \(no room\): see .*01_plan.log"):
        TimedSteps(tmp_path / "logs").run("plan", ["python", "-c", "import sys; sys.exit('no room')"])
