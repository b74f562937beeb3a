from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nnunet_instance_trainers import linking
from nnunet_instance_trainers.errors import UserError
from nnunet_instance_trainers.linking import VARIABLE, check_torchvision, discovery_folder, link, set_variable, unlink

REMEDY = f"use 'export {VARIABLE}=\"$(nnunet-instance path)\"' instead"


# --- the variable -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [[], ["mine"], ["mine", "yours"]])
@pytest.mark.parametrize("position", [None, 0, -1])
def test_our_folder_comes_first_once_and_others_stay(
    others: list[str], position: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(others)
    if position is not None:
        before.insert(position % (len(others) + 1), str(discovery_folder()))
    monkeypatch.setenv(VARIABLE, os.pathsep.join(before))
    for _ in range(2):
        set_variable()
        assert os.environ[VARIABLE].split(os.pathsep) == [str(discovery_folder()), *others]


def test_an_unset_variable_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is restored
    monkeypatch.delenv(VARIABLE)
    set_variable()
    assert os.environ[VARIABLE] == str(discovery_folder())


def test_the_discovery_folder_holds_re_exports_only() -> None:
    """nnU-Net imports it as a top-level module and forgets it: nothing that is defined there can be pickled."""
    files = sorted(discovery_folder().rglob("*.py"))
    assert len(files) == 2
    imported = []
    for file in files:
        _, *statements = ast.parse(file.read_text()).body  # the first is the docstring
        assert all(isinstance(statement, ast.ImportFrom) for statement in statements)
        imported += [statement.module for statement in statements]
    assert imported == ["nnunet_instance_trainers.trainers"]


# --- the link ---------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the link belongs in a pretended nnunetv2, with one module of nnU-Net's own."""
    folder = tmp_path / "nnunetv2" / "training" / "nnUNetTrainer"
    folder.mkdir(parents=True)
    (folder / "nnUNetTrainer.py").write_text("class nnUNetTrainer: ...\n")
    monkeypatch.setattr(linking, "link_file", lambda: folder / "nnunet_instance_trainers_link.py")
    return linking.link_file()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_link_lies_among_the_trainers_of_the_installed_nnunet() -> None:
    assert (linking.link_file().parent / "nnUNetTrainer.py").is_file()


def test_without_nnunet_the_link_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="nnunetv2 is not installed in this environment: run 'pip install nnunetv2'"):
        link()


def test_link_and_unlink(place: Path) -> None:
    before = names(place.parent)
    for _ in range(2):
        assert link() == place
        assert names(place.parent) == sorted([*before, place.name])
    assert unlink() == place
    assert names(place.parent) == before
    assert unlink() is None


def test_the_linked_file_has_all_trainers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers = ModuleType("nnunet_instance_trainers.trainers")
    trainers.__dict__.update(nnUNetTrainerBlob=object(), helper=object(), __all__=["nnUNetTrainerBlob"])
    monkeypatch.setitem(sys.modules, trainers.__name__, trainers)
    linked = runpy.run_path(str(link()))
    assert linked["nnUNetTrainerBlob"] is trainers.nnUNetTrainerBlob
    assert "helper" not in linked


def test_the_linked_file_survives_the_package(place: Path) -> None:
    """A left-over link must not break nnU-Net's own trainers."""
    code = "import runpy, sys; sys.modules['nnunet_instance_trainers'] = None; print(list(runpy.run_path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(link())], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nnUNetTrainerBlob" not in done.stdout


def test_the_linked_file_hides_no_other_fault(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("a bug in the package")

    monkeypatch.setitem(sys.modules, "nnunet_instance_trainers.trainers", Broken("nnunet_instance_trainers.trainers"))
    with pytest.raises(RuntimeError, match="a bug in the package"):
        runpy.run_path(str(link()))


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("owner, function", [(os, "replace"), (Path, "write_text")])
def test_link_without_permission(place: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str) -> None:
    before = names(place.parent)
    monkeypatch.setattr(owner, function, refuse)
    with pytest.raises(UserError) as info:
        link()
    assert str(info.value) == f"cannot write {place} (Permission denied): {REMEDY}"
    assert names(place.parent) == before


def test_a_link_that_cannot_be_renewed_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = link().read_text()
    before = names(place.parent)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        link()
    assert (names(place.parent), place.read_text()) == (before, content)


def test_unlink_without_permission(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link()
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError) as info:
        unlink()
    assert str(info.value) == f"cannot write {place} (Permission denied): {REMEDY}"
    assert place.is_file()


def test_link_on_a_read_only_file_system(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container image, where Linux refuses before it looks whether the file is there."""
    for function in ("write_text", "unlink"):
        monkeypatch.setattr(Path, function, refuse)
    with pytest.raises(UserError, match="cannot write"):
        link()


# --- torchvision ------------------------------------------------------------------------------------------

MISFIT = "operator torchvision::nms does not exist"


def with_torchvision(folder: Path, body: str) -> dict[str, str]:
    """An environment in which another torchvision comes first."""
    (folder / "torchvision.py").write_text(body)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


DIRECTLY = [
    "-c",
    "from nnunet_instance_trainers.errors import one_line_exit\n"
    "from nnunet_instance_trainers.linking import check_torchvision\n"
    "with one_line_exit(): check_torchvision()",
]
BY_COMMAND = ["-m", "nnunet_instance_trainers.cli", "train", "1", "2d", "0"]


@pytest.mark.parametrize("arguments", [DIRECTLY, BY_COMMAND], ids=["directly", "train"])
def test_a_torchvision_of_another_build_ends_with_one_line(tmp_path: Path, arguments: list[str]) -> None:
    environment = with_torchvision(tmp_path, f"raise RuntimeError({MISFIT!r})")
    dataset = tmp_path / "preprocessed" / "Dataset001_Some"
    dataset.mkdir(parents=True)
    (dataset / "nnUNetPlans.json").write_text("{}")
    environment["nnUNet_preprocessed"] = str(dataset.parent)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"nnunet-instance: error: torch and torchvision do not fit together ({MISFIT})")
    assert "install both from the same index" in line


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'torchvision'"),
        OSError("undefined symbol\nand a long tail"),
        AttributeError("partially initialized module"),
        pytest.param(ImportError()),
    ],
)
def test_every_way_to_be_broken_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (tmp_path / "torchvision.py").write_text(f"raise {error!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(UserError) as info:
        check_torchvision()
    message = str(info.value)
    assert str(error).partition("\n")[0] in message
    assert "\n" not in message and "from the same index" in message


def test_a_torchvision_that_fits_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    assert check_torchvision() is None


def test_other_faults_of_torchvision_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise ZeroDivisionError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    with pytest.raises(ZeroDivisionError):
        check_torchvision()
