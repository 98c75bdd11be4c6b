"""Journey of `scripts/soak hosts`: README's section "Use it", typed line by line at terminals of a key host and a front end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hsmd.protocol.enrolment import PREFIX
from tests.soak.hosts_journeys import serves
from tests.soak.hosts_steps import Report
from tests.support.hosts import Bed, Host, roots
from tests.support.hosts.documents import HSMD_SOURCE, ONLINE, SECRETS, SOURCES, read
from tests.support.hosts.site import Site
from tests.support.polling import wait_until
from tests.support.processes import ROOT
from tests.support.terminal import run_in_terminal

NAME = "readme"
END_OF_FILE = "\x04"
LINE_S = 600.0
RENEW = """#!/bin/sh
cat >/srv/renewed
"""
"""What the program of README's example is here."""


def readme(suite: str, wheel: Path, report: Report) -> None:
    """README's "Use it", typed line by line; then nginx as docs/servers.md says, and a handshake."""
    files = {"key": roots.debian(suite, "softhsm2", "opensc"), "front": roots.debian(suite, "nginx-light")}
    with Bed() as bed:
        site = Site(bed, suite, files, {wheel: HSMD_SOURCE})
        bed.boot()
        with report.step(suite, NAME, "key: the vendor's module and a token"):
            site.make_token()
        site.front.run("systemctl", "disable", "--now", "nginx")
        follow(site, report)
        report.document(site, "servers-nginx")
        serves(site, report, NAME)
        follow_events(site, report)


def follow(site: Site, report: Report) -> None:
    """Type every line. What a person types besides: the PIN, the token that an operator got, and yes."""
    token = ""
    for host, line in lines("use-it"):
        answers = []
        if "/dev/stdin" in line:
            answers = [("", f"{SECRETS['PIN']}\n{END_OF_FILE}")]
        elif "--enroll -" in line:
            answers = [("Token: ", token)]  # the space comes when the terminal echoes no longer
        elif "agent install nginx" in line:
            answers = [("Change these files?", "y")]
        with report.step(site.name, NAME, f"{host}: {line.split('   ')[0]}"):
            shown = typed(site.hosts[host], line, answers)
        if found := re.search(rf"{PREFIX}[\w-]+", shown):
            token = found[0]


def follow_events(site: Site, report: Report) -> None:
    """The program of README's example is run for a certificate that is about to end."""
    ((_, line),) = lines("use-it-events")
    key = site.key
    key.write("/usr/local/bin/renew", RENEW, "755")
    with report.step(site.name, NAME, f"key: {line}") as notes:
        loop = key.start("bash", "-c", line, log=site.bed.directory / "events.log")
        key.sh("""
            sed -i 's/^#warn_days = .*/warn_days = 365/' /etc/hsmd/hsmd.toml
            systemctl reload hsmd
            hsmd cert self-signed www --dns www.example.org --days 300 >/dev/null
        """)
        notes.append(
            f"run after {wait_until(lambda: key.exists('/srv/renewed'), 'the program is run', 90.0):.1f} s"
        )
        loop.terminate()
        loop.wait(20)
    assert "certificate.ending" in key.read("/srv/renewed")


def lines(journey: str) -> Iterator[tuple[str, str]]:
    """(host, line) of README's blocks, those that end in a backslash joined."""
    for step in read((ROOT / "README.md").read_text(), "README.md"):
        if step.journey == journey:
            yield from ((step.host, line) for line in step.text.replace("\\\n", "").splitlines())


def typed(host: Host, line: str, answers: list[tuple[str, str]]) -> str:
    """What the terminal shows when a line is typed there. AssertionError if it fails."""
    prefix = host.prefix(online=ONLINE.search(line) is not None, variables={**SOURCES, "TERM": "xterm"})
    status, shown = run_in_terminal(
        [*prefix, "bash", "-c", line], answers, environment={}, cwd=Path("/"), within_s=LINE_S
    )
    assert status == 0, f"{line}: ended with {status}\n{shown}"
    return shown.replace("\r\n", "\n")


JOURNEYS: dict[str, Callable[[str, Path, Report], None]] = {NAME: readme}
"""As those of hosts_upgrades.py."""
