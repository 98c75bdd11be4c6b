"""A temporary section in agent.toml of a running agent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.polling import wait_until
from tests.support.site import Site


@contextmanager
def policy(site: Site, section: str) -> Iterator[None]:
    """Add a section to agent.toml until the block ends."""
    before = site.agent.config.read_text()
    daemon_at = re.search(r"^\[\[daemon\]\]", before, re.MULTILINE)
    assert daemon_at is not None
    reloads = site.agent.log.read_text().count("agent.reloaded")

    def apply(text: str, expected: int) -> None:
        site.agent.config.write_text(text)
        os.chmod(site.agent.config, 0o600)
        site.agent.reload()
        wait_until(
            lambda: site.agent.log.read_text().count("agent.reloaded") >= expected, "the agent has reloaded"
        )

    apply(before[: daemon_at.start()] + section + before[daemon_at.start() :], reloads + 1)
    try:
        yield
    finally:
        apply(before, reloads + 2)
