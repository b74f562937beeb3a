"""Loaders and workers under each way of starting processes, found by either way and in an editable nnU-Net."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.nnunet

# As pip writes it for an editable install: the package is found by a finder and lies on no path.
FINDER = """
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "nnunetv2":
            return importlib.util.spec_from_file_location(
                name, {folder!r} + "/__init__.py", submodule_search_locations=[{folder!r}]
            )
sys.meta_path.insert(0, Finder)
"""
FIND = """
import nnunetv2
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
print(nnunetv2.__path__[0], recursive_find_trainer_class_by_name("nnUNetTrainerBlob").__module__)
"""


def run(command: list, environment: dict[str, str]) -> str:
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout.strip().splitlines()[-1]


def environment(*paths: Path, **variables: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    path = os.pathsep.join([*map(str, paths), clean.get("PYTHONPATH", "")])
    return {**clean, "PYTHONPATH": path, **variables}


def check_batches_and_workers(said: dict, method: str) -> None:
    assert said["trainer"] == "nnunet_instance_trainers.trainers.blob"
    for source in ("patch", "precomputed"):
        batch = said[source]
        assert batch["methods"] == [method] and batch["shape"] == [2, 2, 24, 32, 32]
        assert batch["most"] > 1 and batch["agree"]
    assert said["scored"] == [0, 0]


def loaders(boxes, method: str, variables: dict[str, str], n_processes: int) -> dict:
    folders = boxes[0]
    script = Path(__file__).parent / "start_methods.py"
    variables = {**variables, **folders.environment, "nnUNet_n_proc_DA": "1"}
    return json.loads(run([sys.executable, script, method, folders.root, n_processes], variables))


@pytest.mark.parametrize("method, n_processes", [("fork", 1), ("spawn", 1)])
def test_worker_processes_give_batches_maps_and_scores(boxes, method, n_processes):
    from nnunet_instance_trainers.linking import discovery_folder

    variables = environment(nnUNet_extTrainer=str(discovery_folder()))
    check_batches_and_workers(loaders(boxes, method, variables, n_processes), method)


# --- an editable nnU-Net --------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix not in ("", ".pyc")}


@pytest.fixture
def editable(tmp_path) -> Path:
    """A copy of nnU-Net, as in somebody's clone."""
    (source,) = find_spec("nnunetv2").submodule_search_locations
    folder = tmp_path / "clone" / "nnunetv2"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "nnunet_instance_trainers_link*"))
    return folder


@pytest.fixture
def command(editable):
    """``nnunet-instance`` with that copy: on the path, as in some editable installs, or by a finder, as in others."""

    def give(by_finder: bool) -> tuple[list, dict[str, str]]:
        site = editable.parent
        if by_finder:
            site = site.with_name("site")
            site.mkdir()
            (site / "sitecustomize.py").write_text(FINDER.format(folder=str(editable)))
        return [sys.executable, "-m", "nnunet_instance_trainers.cli"], environment(site)

    return give


def test_trainers_linked_into_an_editable_nnunet_train(boxes, editable, command):
    ours, variables = command(by_finder=False)
    before = files(editable)
    run([*ours, "path"], variables)
    assert files(editable) == before
    run([*ours, "link"], variables)
    said = loaders(boxes, "forkserver", variables, 2)
    assert said["nnunetv2"] == str(editable)
    check_batches_and_workers(said, "forkserver")
    (added,) = set(files(editable)) - set(before)
    assert Path(added) == editable / "training" / "nnUNetTrainer" / "nnunet_instance_trainers_link.py"
    run([*ours, "unlink"], variables)
    assert files(editable) == before


def test_link_and_unlink_where_a_finder_knows_nnunet(editable, command):
    ours, variables = command(by_finder=True)
    before = files(editable)
    assert run([*ours, "link"], variables).startswith(f"linked: {editable}")
    found = run([sys.executable, "-c", FIND], variables)
    assert found == f"{editable} nnunet_instance_trainers.trainers.blob"
    assert run([*ours, "unlink"], variables).startswith(f"removed: {editable}")
    assert files(editable) == before
