from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from work_on_cases import note, note_and_fail

from nnunet_instance_trainers.data.case_workers import over_cases

WORK = """
import os, sys, time
from pathlib import Path
from nnunet_instance_trainers.data.case_workers import over_cases

def work(folder, case):
    Path(folder, str(os.getpid())).touch()
    time.sleep(0.2)

if __name__ == "__main__":
    list(over_cases(work, sys.argv[1], [str(case) for case in range(1000)], 2))
"""


def _waits_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_when_their_command_is_killed(tmp_path: Path) -> None:
    script, seen = tmp_path / "work.py", tmp_path / "seen"
    script.write_text(WORK)
    seen.mkdir()
    command = subprocess.Popen([sys.executable, str(script), str(seen)], start_new_session=True)
    try:
        assert _waits_for(lambda: len(list(seen.iterdir())) == 2, 120)
        os.kill(command.pid, signal.SIGKILL)  # the command alone, as a machine without memory does it
        command.wait()
        workers = [int(path.name) for path in seen.iterdir()]
        assert _waits_for(lambda: not any(map(_runs, workers)), 20)
    finally:
        os.killpg(command.pid, signal.SIGKILL) if any(map(_runs, (int(p.name) for p in seen.iterdir()))) else None


def stop_after_one(folder: Path, cases: list[str]) -> None:
    results = over_cases(note, folder, cases, 2)
    next(results)
    results.close()  # as where the command itself fails, such as on a full disk


def fail_at_one(folder: Path, cases: list[str]) -> None:
    with pytest.raises(ValueError, match="a bug"):
        list(over_cases(note_and_fail, folder, cases, 2))


@pytest.mark.parametrize("end", [stop_after_one, fail_at_one])
def test_cases_that_wait_are_not_begun_after_a_failure(tmp_path: Path, end: Callable[[Path, list[str]], None]) -> None:
    end(tmp_path, [str(case) for case in range(300)])
    assert 0 < len(list(tmp_path.iterdir())) < 100


def test_a_script_without_a_guard_is_told_to_add_one(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK.replace('if __name__ == "__main__":', "if True:").replace("1000", "3"))
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode and f"each runs {script} anew, so put what it does below 'if __name__ ==" in done.stderr
