from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_instance_trainers.evaluation.scoring.result_files import Evaluation, write_evaluation


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(evaluation: Evaluation, folder: str = "") -> Path:
        path = tmp_path / (folder or evaluation.name)
        write_evaluation(path, evaluation)
        return path

    return write
