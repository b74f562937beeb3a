"""Wheel and sdist work where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from shell import run

ROOT = Path(__file__).parents[1]
NOT_SENT = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "demo", "__pycache__")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> dict[str, Path]:
    """The sdist, and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source") / "clone"
    shutil.copytree(ROOT, source, ignore=NOT_SENT)
    run([sys.executable, "-m", "build", "--no-isolation", source])
    return {"wheel": next(source.glob("dist/*.whl")), "sdist": next(source.glob("dist/*.tar.gz"))}


@pytest.fixture
def bare(tmp_path) -> Path:
    """The folder of programs of an environment that sees the packages of this one, but not this one's checkout."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    target = next((tmp_path / "bare").glob("lib*/python*/site-packages"))
    (target / "of_the_tests.pth").write_text("\n".join(packages))
    program = tmp_path / "bare" / "bin" / "python"
    result = subprocess.run([program, "-c", "import nnunet_instance_trainers"], cwd=tmp_path, capture_output=True)
    assert result.returncode == 1, "this package is there before it is installed"
    return program.parent


@pytest.mark.nnunet
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installation_trains_and_evaluates_without_the_checkout(artifacts, bare, boxes, tmp_path, kind):
    folders, plans = boxes
    dataset = "Dataset901_Boxes"
    install = ["-m", "pip", "--python", bare / "python", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    run([sys.executable, *install, "--ignore-installed", artifacts[kind]])
    plans[dataset]["configurations"]["2d"]["instance_training"] = {
        "num_epochs": 1,
        "num_iterations_per_epoch": 1,
        "num_val_iterations_per_epoch": 1,
        "source": "patch",
    }
    (folders.preprocessed / dataset / "nnUNetPlans.json").write_text(json.dumps(plans[dataset]))
    here = {"PATH": os.pathsep.join((str(bare), os.environ["PATH"])), "PYTHONPATH": ""}

    def installed(*command):
        return run([bare / "nnunet-instance", *command], folders, cwd=tmp_path, **here).stdout

    assert Path(installed("path").strip()).is_relative_to(bare.parent)
    installed("train", "901", "2d", "0", "-tr", "nnUNetTrainerBlob", "-device", "cpu")
    fold = folders.results / dataset / "nnUNetTrainerBlob__nnUNetPlans__2d" / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file() and (fold / "instance_losses.csv").is_file()
    truth = folders.raw / dataset / "labelsTr"
    scored = installed("evaluate", "-i", fold / "validation", "-g", truth, "-o", tmp_path / "scores", "--chill")
    assert "sensitivity" in scored and (tmp_path / "scores" / "cases.csv").is_file()


@pytest.mark.nnunet
def test_what_is_built_is_complete_and_fit_for_an_index(artifacts):
    run([sys.executable, "-m", "twine", "check", "--strict", *artifacts.values()])
    package = ROOT / "nnunet_instance_trainers"
    files = {str(path.relative_to(ROOT)) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    with zipfile.ZipFile(artifacts["wheel"]) as wheel:
        inside = set(wheel.namelist())
        metadata = next(name for name in inside if name.endswith(".dist-info/METADATA"))
        description = Parser().parsestr(wheel.read(metadata).decode()).get_payload()
    assert files == {name for name in inside if ".dist-info/" not in name}
    assert "](docs/" not in description and "<img" not in description
    with tarfile.open(artifacts["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert files | {"README.md", "DESCRIPTION.md", "LICENSE"} <= names
