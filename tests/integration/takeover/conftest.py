"""Fixtures: the release under test, the previous release, and a daemon that took over a directory of the previous release."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.takeover.contents import contents, details
from tests.support.takeover.releases import (
    ANY_PORT,
    EXPECTED,
    ROOT,
    VECTORS,
    Release,
    TakenOver,
    operator,
    serving,
    unpack,
)


@pytest.fixture(scope="session")
def new(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release under test."""
    return Release((sys.executable, "-P"), (ROOT,), tmp_path_factory.mktemp("new"))


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The wheel of the previous release, unpacked.

    `-S` omits the site module, and so the import hook of an editable install, which would precede PYTHONPATH;
    the directories of the dependencies are named instead, after the wheel.
    """
    directory = tmp_path_factory.mktemp("old")
    wheel = directory / "wheel"
    with zipfile.ZipFile(VECTORS / EXPECTED["wheel"]) as packed:
        packed.extractall(wheel)
    installed = [Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return Release((sys.executable, "-S", "-P"), (wheel, *installed), directory)


@pytest.fixture(scope="module")
def taken_over(tmp_path_factory: pytest.TempPathFactory, new: Release) -> Iterator[TakenOver]:
    parent = tmp_path_factory.mktemp("daemon")
    with serving(new, unpack("daemon", parent, ANY_PORT)) as daemon:
        found = operator(new, parent, daemon)
        found.wait_for_token()
        yield TakenOver(daemon, found, {**contents(found.ask), **details(found.ask)})
