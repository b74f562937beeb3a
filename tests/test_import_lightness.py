"""What an import may bring along. Each case runs in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

NNUNET = ("nnunetv2", "batchgenerators", "batchgeneratorsv2")


def packages_after(statement: str) -> set[str]:
    """The top-level packages in memory after a statement."""
    code = f"{statement}\nimport sys\nprint('|'.join({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


def test_the_functional_core_imports_nothing_of_nnunet() -> None:
    loaded = packages_after("import nnunet_instance_trainers.instances, nnunet_instance_trainers.losses")
    assert "torch" in loaded
    assert [name for name in loaded if name.startswith(NNUNET)] == []


def test_the_package_itself_imports_no_torch() -> None:
    loaded = packages_after("import nnunet_instance_trainers")
    assert "nnunet_instance_trainers" in loaded
    assert "torch" not in loaded


@pytest.mark.nnunet
def test_this_test_can_fail() -> None:
    """The trainers do bring nnU-Net in, and that is seen."""
    loaded = packages_after("import nnunet_instance_trainers.trainers")
    assert {"torch", "nnunetv2", "batchgenerators"} <= loaded
