"""A vault in memory, an owner with a registered management key, and an empty memory of statements."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.holder.proving import Prover
from hsmd.holder.seen import Seen
from tests.support.fake_vault import FakeVault
from tests.support.holder import management_key


@pytest.fixture
def vault() -> FakeVault:
    made = FakeVault()
    made.register(management_key())
    return made


@pytest.fixture
def prover(vault: FakeVault) -> Prover:
    return Prover(vault, management_key())


@pytest.fixture
def seen(tmp_path: Path) -> Seen:
    return Seen(tmp_path / "seen")
