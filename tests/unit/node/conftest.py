"""Fixtures for tests of nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsmd.node import config as configuration
from hsmd.node.config import NodeConfig
from tests.support.node_authority import Clock, NodeAuthority
from tests.support.node_files import node_toml


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(clock: Clock) -> NodeAuthority:
    return NodeAuthority(clock)


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return configuration.parse(node_toml(tmp_path))
