from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest_plugins = ["nnunet_fixtures"]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the commands that tests run; two workers share the cores

_SHARED = Path(__file__).resolve().parents[2] / "shared"

torch.set_num_threads(1)


def _shared_folder(name: str) -> Path:
    folder = _SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the folder shared/{name} beside the repository, which is not in the release")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden values."""
    return _shared_folder("golden")


@pytest.fixture(scope="session")
def golden_cells() -> Path:
    """The folder of golden values of losses over cells, for the cases of ``golden``."""
    return _shared_folder("golden_cells")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of sample datasets."""
    return _shared_folder("data")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB; only who may mount one has it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("may not mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a traceback may hold a file open
