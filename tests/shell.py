"""Commands as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(command, folders=None, *, expect=0, cwd=None, **environment):
    """Run a command of this environment and compare its exit status.

    nnU-Net's search knows nothing of this package unless ``nnUNet_extTrainer`` is given.
    """
    clean = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    clean["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), clean["PATH"]))
    environment = {**clean, **(folders.environment if folders else {}), **environment}
    result = subprocess.run(
        [str(part) for part in command], env=environment, cwd=cwd, capture_output=True, text=True, timeout=900
    )
    assert result.returncode == expect, result.stdout[-2000:] + result.stderr[-4000:]
    return result
