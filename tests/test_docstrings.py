"""The examples in docstrings are run as they stand."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import nnunet_instance_trainers

PACKAGE = Path(nnunet_instance_trainers.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for folder in ("instances", "losses", "evaluation", "ensembling", "ensemble_fitting", "objects")
    for file in (PACKAGE / folder).rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_they_give(name: str) -> None:
    module = import_module(name)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    globals_ = {**vars(module), "np": np, "torch": torch}
    result = doctest.testmod(module, globs=globals_, optionflags=options)
    assert result.attempted > 0 and result.failed == 0
