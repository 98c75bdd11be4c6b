"""Numbers for the metrics endpoint, without a daemon."""

from __future__ import annotations

import pytest

from hsmd.protocol.messages import Metrics
from tests.support.metrics import numbers_of


@pytest.fixture
def numbers() -> Metrics:
    return numbers_of()
