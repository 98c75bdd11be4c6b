"""For all tests: the gate draws the same Hypothesis examples in every run; `scripts/soak properties` looks for new ones.

The fault-injecting PKCS#11 module is compiled once a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fault_module.control import FaultModule

settings.register_profile("gate", derandomize=True)
settings.register_profile("search", max_examples=2_000, print_blob=True)
settings.load_profile("gate")


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled module."""
    return FaultModule.build(tmp_path_factory.mktemp("fault-module"))


@pytest.fixture
def fault_module(tmp_path: Path, fault_library: Path) -> Iterator[FaultModule]:
    """A module for this test; watches the audit log of a House in `tmp_path / "daemon"`."""
    module = FaultModule(
        tmp_path / "faults", fault_library, watch=tmp_path / "daemon" / "audit" / "audit.jsonl"
    )
    yield module
    module.close()
