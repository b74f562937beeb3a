"""The datasets of the feature matrix, made once per test session, and predictions of the cascade's first stage."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def _corners(tmp_path_factory):
    from feature_matrix import Corners, make_corners
    from nnunet_datasets import Folders

    root = tmp_path_factory.mktemp("corners")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Corners(Folders(root), {}).environment.items():
            patch.setenv(name, value)
        return make_corners(root)


@pytest.fixture
def corners(_corners, monkeypatch):
    """The datasets, with nnU-Net's variables set to them; results are shared by the tests of a session."""
    for name, value in _corners.environment.items():
        monkeypatch.setenv(name, value)
    return _corners
