"""Fixtures: the release under test, the previous release, and a daemon that took over a directory of the previous release."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.support.takeover.contents import contents, details
from tests.support.takeover.releases import (
    ANY_PORT,
    ROOT,
    Release,
    TakenOver,
    operator,
    serving,
    unpack,
    unpack_wheel,
)


@pytest.fixture(scope="session")
def new(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release under test."""
    return Release((sys.executable, "-P"), (ROOT,), tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The wheel of the previous release, unpacked."""
    return unpack_wheel(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory, new: Release) -> Iterator[TakenOver]:
    parent = tmp_path_factory.mktemp("daemon")
    with serving(new, unpack("daemon", parent, ANY_PORT)) as daemon:
        found = operator(new, parent, daemon)
        found.wait_for_token()
        yield TakenOver(daemon, found, {**contents(found.ask), **details(found.ask)})
