"""Fixtures of the end-to-end tests: one site for the whole run, whole again before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.site import Site


@pytest.fixture(scope="session")
def running_site() -> Iterator[Site]:
    """The site, as tests leave it."""
    site = Site()
    try:
        yield site
    finally:
        site.close()


@pytest.fixture
def site(running_site: Site) -> Site:
    """The site, with everything running and connected."""
    running_site.settle()
    return running_site
