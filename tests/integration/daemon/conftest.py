"""Fixtures: one daemon for all tests that leave it as it was, and daemons of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import MAIL, WEB, Daemon, running_daemon


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two keys: `web` granted to WEB, `mail` to MAIL. Tests do not take away what others rely on."""
    with running_daemon(tmp_path_factory.mktemp("house") / "daemon", workers=2) as built:
        built.digests = {  # type: ignore[attr-defined]
            "web": built.add_key("web", grant_to=(WEB,)),
            "mail": built.add_key("mail", grant_to=(MAIL,)),
        }
        yield built


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Opens a daemon of one's own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_daemon(tmp_path / "daemon", **options))
