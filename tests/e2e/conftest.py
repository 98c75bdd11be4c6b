"""Fixtures of the end-to-end tests: one site for the whole run, restored before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.site import Site


@pytest.fixture(scope="session")
def running_site() -> Iterator[Site]:
    """The site in the state that the previous test left."""
    site = Site()
    site.daemon.disconnect()  # other tests check that connections leave no threads
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The site, with everything running and connected."""
    running_site.settle()
    yield running_site
    running_site.daemon.disconnect()
