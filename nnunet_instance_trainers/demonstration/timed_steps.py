"""The commands of the demo, one after the other, and where the time went."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from nnunet_instance_trainers.errors import UserError

__all__ = ["TimedSteps"]


class TimedSteps:
    """Runs commands one after the other, each with a log file and a line or a bar on the screen."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.seconds: dict[str, float] = {}
        logs.mkdir(exist_ok=True)

    def run(self, title: str, command: Sequence[str], *, epochs: int = 0, **environment: str) -> None:
        number, start = len(self.seconds) + 1, perf_counter()
        log = self.logs / f"{number:02d}_{title.replace(' ', '_')}.log"
        search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        program = shutil.which(command[0], path=search)
        if program is None:
            raise UserError(f"the command {command[0]} is not installed: install this package with pip")
        with (
            open(log, "w", buffering=1) as stream,
            tqdm(total=epochs or 1, desc=f"{number}. {title}", unit="epoch" if epochs else "step") as bar,
            subprocess.Popen(
                [program, *command[1:]],
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            for line in process.stdout or ():
                stream.write(line)
                bar.update("Epoch time" in line if epochs else 0)
            if process.wait() == 0:
                bar.update(0 if epochs else 1)
        if process.returncode != 0:
            last = [line for line in log.read_text().splitlines() if line.strip()][-1:]
            raise UserError(f"'{' '.join(command)}' failed ({''.join(last)}): see {log}")
        self.seconds[title] = perf_counter() - start

    def times(self) -> str:
        """A line for each step, and one for all."""
        rows = [*self.seconds.items(), ("all steps", sum(self.seconds.values()))]
        width = max(len(title) for title, _ in rows)
        return "\n".join(f"{title:<{width}}  {seconds:5.0f} s" for title, seconds in rows)
