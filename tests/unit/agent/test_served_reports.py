"""Reports of what servers present: only what is new to a daemon, all of it after a connect, and nothing to an old daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmd.agent.served_reports import ServedReports
from hsmd.deployment import installed
from hsmd.deployment.installed import Certificate, Installed
from hsmd.errors import BadRequest, HsmdError, Overloaded
from hsmd.protocol.messages import MAX_PAGE, CertificateReport, Done


class Daemon:
    """Stands for a connection."""

    def __init__(self) -> None:
        self.available = True
        self.refusal: HsmdError | None = None
        self.pages: list[dict[str, str]] = []

    async def control(self, request: CertificateReport, *, timeout_s: float) -> Done:
        if self.refusal is not None:
            raise self.refusal
        self.pages.append({each.key: each.certificate for each in request.served})
        return Done(True)


class Front:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.daemons = [Daemon(), Daemon()]
        connections: Any = self.daemons
        self.reports = ServedReports(path, lambda: connections, clock=lambda: self.now)

    def install(self, **leaves: str) -> None:
        installed.write(self.path, Installed([Certificate(key, leaf * 64) for key, leaf in leaves.items()]))

    async def told(self) -> list[list[dict[str, str]]]:
        """What each daemon is told now."""
        await self.reports.look()
        pages = [daemon.pages for daemon in self.daemons]
        for daemon in self.daemons:
            daemon.pages = []
        return pages


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path / "installed.json")


async def test_each_daemon_is_told_what_is_new(front: Front) -> None:
    assert await front.told() == [[], []]
    front.install(www="a", mail="b")
    both = [{"www": "a" * 64, "mail": "b" * 64}]
    assert await front.told() == [both, both]
    assert await front.told() == [[], []]
    front.install(www="c", mail="b")
    assert await front.told() == [[{"www": "c" * 64}], [{"www": "c" * 64}]]


async def test_a_daemon_that_is_away_is_told_later(front: Front) -> None:
    front.daemons[1].available = False
    front.install(www="a")
    assert await front.told() == [[{"www": "a" * 64}], []]
    front.daemons[1].available = True
    assert await front.told() == [[], [{"www": "a" * 64}]]


async def test_after_a_connect_everything_is_told_again_but_not_often(front: Front) -> None:
    connection: Any = front.daemons[0]
    front.install(www="a")
    front.reports.connected(connection)
    await front.told()
    front.reports.connected(connection)
    assert await front.told() == [[], []]
    front.now = 60.0
    assert await front.told() == [[{"www": "a" * 64}], []]
    front.now = 120.0
    assert await front.told() == [[], []]


async def test_a_daemon_of_an_earlier_release_is_asked_once_for_each_connection(front: Front) -> None:
    old = front.daemons[0]
    old.refusal = BadRequest("control request: Invalid value 'cert.report'")
    front.install(www="a")
    await front.told()
    old.refusal = None
    assert await front.told() == [[], []]
    connection: Any = old
    front.reports.connected(connection)
    assert await front.told() == [[{"www": "a" * 64}], []]


async def test_a_report_that_failed_is_made_again(front: Front) -> None:
    front.daemons[0].refusal = Overloaded.retry_in(1.0)
    front.install(www="a")
    await front.told()
    front.daemons[0].refusal = None
    assert await front.told() == [[{"www": "a" * 64}], []]


async def test_many_are_told_in_pages(front: Front) -> None:
    front.install(**{f"key{number}": "a" for number in range(MAX_PAGE + 1)})
    first, _ = await front.told()
    assert [len(page) for page in first] == [MAX_PAGE, 1]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"certificates":[{"key":"../x","leaf":"00"}]}', b"\xff", b'{"certificates":1}']
)
async def test_a_damaged_file_tells_nothing(front: Front, content: bytes) -> None:
    front.path.write_bytes(content)
    assert await front.told() == [[], []]
    front.install(www="a")
    assert (await front.told())[0] == [{"www": "a" * 64}]
