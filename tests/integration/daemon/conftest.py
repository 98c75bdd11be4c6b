"""Fixtures: one daemon for all tests that leave it as it was, and daemons of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon_house import MAIL, WEB, House, house


@pytest.fixture(scope="session")
def shared_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with two keys: `web` granted to WEB, `mail` to MAIL. Tests do not take away what others rely on."""
    with house(tmp_path_factory.mktemp("house") / "daemon", workers=2) as built:
        built.digests = {  # type: ignore[attr-defined]
            "web": built.add_key("web", grant_to=(WEB,)),
            "mail": built.add_key("mail", grant_to=(MAIL,)),
        }
        yield built


@pytest.fixture
def open_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Opens a daemon of one's own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(house(tmp_path / "daemon", **options))
