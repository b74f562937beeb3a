"""Versions, folders, the way to the trainers, devices: what a training needs before it has data."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from nnunet_instance_trainers import __version__, linking
from nnunet_instance_trainers.checking.findings import OK, PROBLEM, WARNING, Finding
from nnunet_instance_trainers.errors import UserError

__all__ = ["check_installation", "labellers"]

_PACKAGE = "nnunet-instance-trainers"
_SHOWN = ("nnunetv2", "batchgeneratorsv2", "torch", "torchvision", "connected-components-3d")
_EXPORT = f'export {linking.VARIABLE}="$(nnunet-instance path)"'
_FOLDERS = {
    "nnUNet_raw": os.R_OK | os.X_OK,
    "nnUNet_preprocessed": os.W_OK | os.X_OK,
    "nnUNet_results": os.W_OK | os.X_OK,
}


def check_installation() -> list[Finding]:
    """Look at everything that does not depend on a dataset.

    nnU-Net's search for trainers runs only where the way to them is in order, so that one fault is one line.
    """
    way = [*_torchvision(), *_link(), *_variable()]
    search = _search() if all(finding.level == OK for finding in way) else ()
    return [*_versions(), *_folders(), *way, *search, *_devices()]


def _versions() -> Iterator[Finding]:
    yield Finding(OK, "version", f"{_PACKAGE} {__version__}")
    try:
        requirements = [Requirement(line) for line in metadata.requires(_PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        requirements = []
        yield Finding(WARNING, "version", f"{_PACKAGE} was not installed by pip, so versions are not compared")
    needed = {r.name: r.specifier for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})}
    for name in dict.fromkeys((*_SHOWN, *needed)):
        wanted = needed.get(name, "")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(PROBLEM, "version", f"{name} is not installed", f"pip install '{name}{wanted}'")
            continue
        if wanted and not wanted.contains(version, prereleases=True):
            yield Finding(PROBLEM, "version", f"{name} {version} is not {wanted}", f"pip install '{name}{wanted}'")
        elif name in _SHOWN:
            yield Finding(OK, "version", f"{name} {version}")
    cupy = metadata.packages_distributions().get("cupy")
    yield Finding(OK, "version", f"{cupy[0]} {metadata.version(cupy[0])}" if cupy else "CuPy is not installed")


def _folders() -> Iterator[Finding]:
    for name, access in _FOLDERS.items():
        folder = os.environ.get(name)
        if not folder:
            yield Finding(PROBLEM, name, "is not set", f"export {name}=FOLDER")
        elif not Path(folder).is_dir():
            yield Finding(PROBLEM, name, f"{folder} is no folder", f"mkdir -p {folder}, or export {name}=FOLDER")
        elif not os.access(folder, access):
            verb = "written to" if access & os.W_OK else "read"
            yield Finding(PROBLEM, name, f"{folder} cannot be {verb}", "change its permissions")
        else:
            yield Finding(OK, name, folder)


def _torchvision() -> Iterator[Finding]:
    try:
        linking.check_torchvision()
    except UserError as error:
        yield Finding.of_error("torchvision", error)
    else:
        yield Finding(OK, "torchvision", "fits torch")


def _link() -> Iterator[Finding]:
    try:
        state = linking.link_state()
    except UserError as error:
        yield Finding.of_error("link", error)
        return
    if state == "stale":
        text = f"{linking.link_file()} is not what this version writes"
        yield Finding(PROBLEM, "link", text, "run 'nnunet-instance link' again")
    else:
        yield Finding(OK, "link", f"{linking.link_file()}" if state == "current" else "none")


def _variable() -> Iterator[Finding]:
    """The entries of nnUNet_extTrainer; the search stops at the first that has the name."""
    name, ours = linking.VARIABLE, linking.discovery_folder().resolve()
    entries = [entry for entry in os.environ.get(name, "").split(os.pathsep) if entry.strip()]
    package = Path(linking.__file__).resolve().parent
    faults = []
    for entry in entries:
        place = Path(entry).resolve()
        if not place.is_dir():
            faults.append(f"{entry} is no folder")
        elif place != ours and (place in (package, *package.parents) or package in place.parents):
            faults.append(f"{entry} is the package or a folder around or inside it, whose trainers cannot be pickled")
    if faults:
        yield Finding(PROBLEM, name, faults[0], _EXPORT)
    elif any(Path(entry).resolve() == ours for entry in entries):
        yield Finding(OK, name, os.pathsep.join(entries))
    elif _is_linked():
        yield Finding(OK, name, f"{os.pathsep.join(entries) or 'is not set'}; the link leads to the trainers")
    elif entries:
        text = f"{os.pathsep.join(entries)} does not lead to the trainers of this package"
        yield Finding(PROBLEM, name, text, _EXPORT)
    else:
        text = "is not set and there is no link, so only 'nnunet-instance train' finds the trainers"
        yield Finding(WARNING, name, text, _EXPORT)


def _is_linked() -> bool:
    try:
        return linking.link_state() == "current"
    except UserError:
        return False


def _search() -> Iterator[Finding]:
    """What nnU-Net's own search gives for each of the trainers' names."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_instance_trainers import trainers

    found = 0
    for name in trainers.__all__:
        try:
            trainer = recursive_find_trainer_class_by_name(name)
        except Exception as error:  # the search runs every module that it passes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield Finding(PROBLEM, "search", f"nnU-Net does not find {name} ({reason})", "mend or remove that module")
            return
        if trainer is getattr(trainers, name):
            found += 1
        else:
            text = f"{name} of {trainer.__module__} shadows the trainer of this package"
            yield Finding(PROBLEM, "search", text, "rename that class, or put this package's folder first")
    yield Finding(OK, "search", f"nnU-Net finds {found} of {len(trainers.__all__)} trainers")


def labellers() -> Iterator[tuple[str, str]]:
    """Each device here, and what numbers predicted components on it and why."""
    import torch

    from nnunet_instance_trainers.instances import labeller

    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    mps = [torch.device("mps")] if torch.backends.mps.is_available() else []
    for device in (torch.device("cpu"), *gpus, *mps):
        yield str(device), str(labeller(device))


def _devices() -> Iterator[Finding]:
    for device, way in labellers():
        yield Finding(OK, "device", f"{device}, components numbered by {way}")
    yield Finding(OK, "start method", multiprocessing.get_start_method())
