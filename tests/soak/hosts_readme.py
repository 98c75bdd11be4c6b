"""Journey of `scripts/soak hosts`: README's section "Use it", typed line by line at terminals of a key host and a front end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

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
        request = key.run("hsmd", "key", "csr", "www", "--dns", "www.example.org").stdout
        key.write("/root/fullchain.pem", ending_soon(request))
        key.run("hsmd", "cert", "import", "www", "/root/fullchain.pem")
        notes.append(
            f"run after {wait_until(lambda: key.exists('/srv/renewed'), 'the program is run', 90.0):.1f} s"
        )
        loop.terminate()
        loop.wait(20)
    assert "certificate.ending" in key.read("/srv/renewed")


def ending_soon(request: str) -> str:
    """The chain for a request, of a CA that issues for three months; the last has begun."""
    now, day = datetime.now(UTC), timedelta(days=1)
    asked = x509.load_pem_x509_csr(request.encode())
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
    root = _certificate(ca, ca, ca_key.public_key(), now - 80 * day, now + 40 * day)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = _certificate(asked.subject, ca, asked.public_key(), now - 70 * day, now + 20 * day)
    for extension in asked.extensions:
        leaf = leaf.add_extension(extension.value, extension.critical)
    made = [each.sign(ca_key, hashes.SHA256()) for each in (leaf, root)]
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in made)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: PublicKeyTypes, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)  # type: ignore[arg-type]
    return built.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


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
