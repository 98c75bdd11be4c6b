"""Fixtures: one daemon shared by all tests that leave it unchanged, and daemons for single tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import MAIL, WEB, Daemon, running_daemon


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two keys: `web` granted to WEB, `mail` to MAIL. Tests must not remove or change these."""
    with running_daemon(tmp_path_factory.mktemp("shared") / "daemon", workers=2) as built:
        built.digests = {  # type: ignore[attr-defined]
            "web": built.add_key("web", grant_to=(WEB,)),
            "mail": built.add_key("mail", grant_to=(MAIL,)),
        }
        yield built


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon for one test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_daemon(tmp_path / "daemon", **options))
