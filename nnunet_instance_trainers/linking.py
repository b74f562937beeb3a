"""How nnU-Net finds the trainers: by a folder in ``nnUNet_extTrainer``, or by a link file inside nnunetv2."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from nnunet_instance_trainers.errors import UserError

__all__ = [
    "VARIABLE",
    "check_torchvision",
    "discovery_folder",
    "link",
    "link_file",
    "link_state",
    "set_variable",
    "unlink",
]

VARIABLE = "nnUNet_extTrainer"

_LINK = '''"""Lets nnU-Net find the trainers of nnunet-instance-trainers; 'nnunet-instance unlink' removes it."""

try:
    from nnunet_instance_trainers.trainers import *  # noqa: F403
except ImportError:  # a left-over link must not break nnU-Net's own trainers
    pass
'''


def discovery_folder() -> Path:
    """The folder that belongs into ``nnUNet_extTrainer``."""
    return Path(__file__).parent / "discovery"


def set_variable() -> None:
    """Put the discovery folder into ``nnUNet_extTrainer`` of this process, before what is there."""
    others = [
        path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path and path != str(discovery_folder())
    ]
    os.environ[VARIABLE] = os.pathsep.join([str(discovery_folder()), *others])


def link_file() -> Path:
    """Where the link lies, or would lie, inside the installed nnunetv2.

    Raises:
        UserError: nnunetv2 is not installed.
    """
    spec = find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("nnunetv2 is not installed in this environment: run 'pip install nnunetv2'")
    return Path(spec.submodule_search_locations[0]) / "training" / "nnUNetTrainer" / "nnunet_instance_trainers_link.py"


def link() -> Path:
    """Write the link, so that nnU-Net's commands find the trainers without a variable.

    Raises:
        UserError: the folder of nnunetv2 cannot be written.
    """
    path = link_file()
    temporary = path.with_suffix(".unfinished")  # not .py: nnU-Net imports every module of that folder
    try:
        temporary.write_text(_LINK)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # a read-only file system refuses even this
            temporary.unlink()
        raise UserError(_cannot(path, error)) from None
    return path


def link_state() -> str:
    """``"none"``, ``"current"``, or ``"stale"``: a link of another version, or one that leads nowhere.

    Raises:
        UserError: nnunetv2 is not installed.
    """
    path = link_file()
    if not path.is_file():
        return "stale" if path.is_symlink() else "none"
    return "current" if path.read_text(errors="replace") == _LINK else "stale"


def unlink() -> Path | None:
    """Remove the link; returns its path, None where there was none.

    Raises:
        UserError: the folder of nnunetv2 cannot be written.
    """
    path = link_file()
    if not path.exists():
        return None
    try:
        path.unlink()
    except OSError as error:
        raise UserError(_cannot(path, error)) from None
    return path


def _cannot(path: Path, error: OSError) -> str:
    return f"cannot write {path} ({error.strerror}): use 'export {VARIABLE}=\"$(nnunet-instance path)\"' instead"


def check_torchvision() -> None:
    """Make sure that nnU-Net's search can import torchvision, which it does on the way to external trainers.

    Raises:
        UserError: torch and torchvision come from different builds.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch and torchvision do not fit together ({reason}), so nnU-Net cannot find external trainers: "
            "install both from the same index, 'pip install --force-reinstall torch torchvision'"
        ) from None
