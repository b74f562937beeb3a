"""Every command that writes, on a disk that is full or read-only: one line, nothing half-written, easily mended."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluated import evaluate_masks
from nnunet_datasets import Folders

from nnunet_instance_trainers.cli import main

pytestmark = pytest.mark.nnunet

BOXES = "Dataset901_Boxes"


def fill(disk: Path) -> None:
    with pytest.raises(OSError), open(disk / "filler", "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def forbid(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def mend(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw,size=50m", str(disk)], check=True)
    (disk / "filler").unlink(missing_ok=True)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two evaluated models; their masks lie in A_masks and B_masks."""
    masks = {f"case_{n}": np.random.default_rng(n).random((40, 40)) < 0.2 for n in range(3)}
    predictions = {"A": masks, "B": {case: np.roll(mask, 1) for case, mask in masks.items()}}
    as_labels = {model: {c: m.astype(np.uint8) for c, m in cases.items()} for model, cases in predictions.items()}
    return evaluate_masks(tmp_path, as_labels["A"], as_labels, ".png")


def commands(root: Path, disk: Path) -> dict[str, list[str]]:
    a, b = str(root / "A"), str(root / "B")
    masks = f"{a}_masks:0-0.005", f"{b}_masks:0.005-"
    dataset = str(root / "dataset.json")
    scored = ["-i", f"{a}_masks", "-g", str(root / "labelsTs"), "-np", "1"]
    return {
        "evaluate": [*scored, "-o", str(disk / "scores")],
        "evaluate --overlays": [*scored, "-o", str(disk / "scores"), "--overlays"],
        "import": ["-i", str(root / "labelsTs"), "-l", f"{a}_masks", "-o", str(disk / "Dataset123_A"), "-np", "1"],
        "compare": [a, b, "-o", str(disk / "tables")],
        "report": [a, b, "-o", str(disk / "page" / "report.html")],
        "objects": ["-i", f"{a}_masks", "-o", str(disk / "objects"), "-djfile", dataset, "-np", "1"],
        "ensemble": ["-m", masks[0], "-m", masks[1], "-o", str(disk / "merged"), "-djfile", dataset, "-np", "1"],
    }


def files(disk: Path) -> list[str]:
    return [path.name for path in disk.rglob("*") if path.is_file() and path.name != "filler"]


@pytest.mark.parametrize("spoil", [fill, forbid])
@pytest.mark.parametrize(
    "command", ["evaluate", "evaluate --overlays", "import", "compare", "report", "objects", "ensemble"]
)
def test_a_command_that_cannot_write(
    models: list[Path], tmp_path: Path, small_disk: Path, spoil: Callable[[Path], None], command: str
) -> None:
    words = [command.split()[0], *commands(tmp_path, small_disk)[command]]
    spoil(small_disk)
    assert str(small_disk) in line_of(words)
    assert files(small_disk) == []
    mend(small_disk)
    main(words)
    assert files(small_disk) and not list(small_disk.rglob(".unfinished_*"))


@pytest.mark.parametrize("spoil", [fill, forbid])
def test_precompute_and_configure_that_cannot_write(
    boxes: tuple[Folders, dict], small_disk: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    mend(small_disk)
    shutil.copytree(boxes[0].preprocessed / BOXES, small_disk / BOXES)
    monkeypatch.setenv("nnUNet_preprocessed", str(small_disk))
    before = sorted(files(small_disk))
    spoil(small_disk)
    precompute = ["precompute", "-d", "901", "-c", "3d_fullres", "-np", "1"]
    configure = ["configure", "-d", "901", "-o", "nnUNetPlans_other", "source=patch"]
    for words in (precompute, configure):
        assert str(small_disk) in line_of(words)
    assert sorted(files(small_disk)) == before
    mend(small_disk)
    for words in (precompute, configure):
        main(words)
    assert json.loads((small_disk / BOXES / "nnUNetPlans_other.json").read_text())["plans_name"] == "nnUNetPlans_other"


def line_of(words: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code  # a text means exit status 1
    assert "cannot write" in stop.value.code and "make room" in stop.value.code
    return stop.value.code
