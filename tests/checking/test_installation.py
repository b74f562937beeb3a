from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_instance_trainers import linking
from nnunet_instance_trainers.checking import installation
from nnunet_instance_trainers.checking.findings import OK, PROBLEM, WARNING, Finding
from nnunet_instance_trainers.linking import VARIABLE, discovery_folder, link

PACKAGE = Path(linking.__file__).parent
_SEARCH, _VERSIONS = installation._search, installation._versions


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation in order: three folders, the variable, a pretended nnunetv2 without a link."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv(VARIABLE, str(discovery_folder()))
    (tmp_path / "nnUNetTrainer").mkdir()
    monkeypatch.setattr(linking, "link_file", lambda: tmp_path / "nnUNetTrainer" / "link.py")
    monkeypatch.setattr(installation, "_search", lambda: [])
    monkeypatch.setattr(installation, "_versions", lambda: [])  # it reads the metadata of all packages: a second
    monkeypatch.setattr(linking, "check_torchvision", lambda: None)
    return tmp_path


def faults() -> list[Finding]:
    """What is amiss."""
    return [finding for finding in installation.check_installation() if finding.level != OK]


def test_an_installation_in_order_has_no_faults() -> None:
    assert faults() == []


@pytest.mark.parametrize("name", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_folder_that_is_not_set_or_gone_is_one_line(
    name: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / name).rmdir()
    (gone,) = faults()
    assert (gone.level, gone.topic, gone.text) == (PROBLEM, name, f"{environment / name} is no folder")
    monkeypatch.delenv(name)
    assert [str(f) for f in faults()] == [f"problem  {name}: is not set: export {name}=FOLDER"]


def test_folders_without_the_right_to_write_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: not mode & os.W_OK)
    assert [f.topic for f in faults()] == ["nnUNet_preprocessed", "nnUNet_results"]


@pytest.mark.parametrize("place", [PACKAGE, PACKAGE.parent, PACKAGE / "trainers"])
def test_a_variable_that_points_at_the_package_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(discovery_folder()), str(place)]))
    (fault,) = faults()
    assert (fault.level, fault.topic) == (PROBLEM, VARIABLE) and fault.text.startswith(f"{place} is the package or")


def test_a_wrong_variable_is_named(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(environment / "typo"))
    (fault,) = faults()
    assert fault.text == f"{environment / 'typo'} is no folder" and "nnunet-instance path" in fault.remedy
    monkeypatch.setenv(VARIABLE, str(environment))
    (fault,) = faults()
    assert fault.level == PROBLEM and fault.text.endswith("does not lead to the trainers of this package")


def test_no_variable_is_a_warning_and_with_a_link_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    (fault,) = faults()
    assert (fault.level, fault.topic) == (WARNING, VARIABLE)
    link()
    assert faults() == []


def test_a_stale_link_is_named_and_its_remedy_mends_it(environment: Path) -> None:
    for make in (lambda path: path.write_text("import gone\n"), lambda path: path.symlink_to("gone")):
        linking.link_file().unlink(missing_ok=True)
        make(linking.link_file())
        (fault,) = faults()
        assert (fault.level, fault.topic, fault.remedy) == (PROBLEM, "link", "run 'nnunet-instance link' again")
        link()
        assert faults() == []


def test_a_torchvision_of_another_build_is_one_line(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real check
    (environment / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(environment)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    (fault,) = installation._torchvision()
    assert fault.level == PROBLEM and "do not fit together (operator torchvision::nms" in fault.text
    assert fault.remedy.startswith("install both from the same index")


def test_versions_are_compared_with_what_the_package_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"nnunetv2": "2.7", "batchgeneratorsv2": "0.3.6", "torch": "2.9", "torchvision": "0.24"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    required = ["nnunetv2<3,>=2.8", "batchgeneratorsv2>=0.3.2", "connected-components-3d>=3.29", "x; extra == 'demo'"]
    fake = SimpleNamespace(
        requires=lambda name: required,
        version=version,
        packages_distributions=lambda: {},
        PackageNotFoundError=metadata.PackageNotFoundError,
    )
    monkeypatch.setattr(installation, "metadata", fake)
    assert [(f.text, f.remedy) for f in _VERSIONS() if f.level != OK] == [
        ("nnunetv2 2.7 is not <3,>=2.8", "pip install 'nnunetv2<3,>=2.8'"),
        ("connected-components-3d is not installed", "pip install 'connected-components-3d>=3.29'"),
    ]


# --- nnU-Net's own search ---------------------------------------------------------------------------------


@pytest.fixture
def trainers():
    from nnunet_instance_trainers import trainers

    return trainers


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch):
    """The true search, in the place of nnU-Net's one function."""

    def with_results(find) -> list[Finding]:
        module = SimpleNamespace(recursive_find_trainer_class_by_name=find)
        monkeypatch.setitem(sys.modules, "nnunetv2.utilities.find_objects", module)
        return list(_SEARCH())

    return with_results


@pytest.mark.nnunet
def test_a_trainer_of_the_same_name_elsewhere_shadows_ours(search, trainers) -> None:
    other = type("nnUNetTrainerBlob", (), {"__module__": "mine"})
    first, last = search(lambda name: other if name == "nnUNetTrainerBlob" else getattr(trainers, name))
    assert first.level == PROBLEM and first.text.startswith("nnUNetTrainerBlob of mine shadows")
    assert last.text == f"nnU-Net finds {len(trainers.__all__) - 1} of {len(trainers.__all__)} trainers"


@pytest.mark.nnunet
def test_a_module_that_breaks_the_search_is_named(search) -> None:
    def fails(name: str) -> type:
        raise ImportError("no module named gone")

    (fault,) = search(fails)
    assert fault.level == PROBLEM and "(no module named gone)" in fault.text


@pytest.mark.nnunet
def test_nnunet_itself_finds_all_trainers(trainers) -> None:
    (finding,) = _SEARCH()
    n = len(trainers.__all__)
    assert (finding.level, finding.text) == (OK, f"nnU-Net finds {n} of {n} trainers")
