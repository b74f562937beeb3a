from __future__ import annotations

import pytest
from challenge_values import OfficialValues


@pytest.fixture(scope="session")
def organisers() -> OfficialValues:
    return OfficialValues()
