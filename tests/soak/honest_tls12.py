"""Honest handshakes under TLS 1.2 by OpenSSL, GnuTLS, NSS and Java with keys in the token: none is refused.

`HSMD_HONEST_EACH`: handshakes of each. Installs the Debian packages of PACKAGES when a program of them is missing, which
needs root; the C program for NSS and the Java program are in tests/soak/tls12_clients.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.front_end import HOST
from tests.support.polling import wait_until
from tests.support.site import KeyPlan, Site

EACH = int(os.environ.get("HSMD_HONEST_EACH", "40"))
PACKAGES = {
    "gnutls-cli": "gnutls-bin",
    "gnutls-serv": "gnutls-bin",
    "cc": "gcc",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "/usr/include/nss/ssl.h": "libnss3-dev",
    "pkg-config": "pkg-config",
}
SOURCES = Path(__file__).with_name("tls12_clients")
HOSTS = ("p256.test", "rsa.test")
GROUPS = {
    "X25519": ("X25519", "GROUP-X25519", 29, "x25519"),
    "P-256": ("prime256v1", "GROUP-SECP256R1", 23, "secp256r1"),
    "P-384": ("secp384r1", "GROUP-SECP384R1", 24, "secp384r1"),
}
"""The names of each group in OpenSSL, GnuTLS, NSS and Java."""
pytestmark = pytest.mark.timeout(1_800)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    missing = {
        package
        for program, package in PACKAGES.items()
        if not any(Path(place, program).exists() for place in os.environ["PATH"].split(":"))
    }
    if missing:
        print(f"installing {', '.join(sorted(missing))} for the TLS clients", flush=True)
        subprocess.run(["apt-get", "install", "-y", *sorted(missing)], check=True, stdout=subprocess.DEVNULL)
    built = Site()
    try:
        yield built
    finally:
        built.close()


def openssl(port: int, host: str, group: str, count: int, _: Path) -> int:
    command = [
        "openssl", "s_client", "-connect", f"{HOST}:{port}", "-servername", host, "-tls1_2", "-groups", groups(group, 0, ":"),
    ]  # fmt: skip
    return sum("Cipher is ECDHE" in output_of(command) for _number in range(count))


def groups(wanted: str, client: int, separator: str) -> str:
    """The group, and P-256 if it is another: a client accepts ECDSA certificates of its groups only (RFC 8422, section 5.1)."""
    return separator.join(str(GROUPS[each][client]) for each in dict.fromkeys((wanted, "P-256")))


def output_of(command: list[str]) -> str:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    ).stdout


def gnutls(port: int, host: str, group: str, count: int, _: Path) -> int:
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.2:-GROUP-ALL:+{groups(group, 1, ':+')}"
    command = [
        "gnutls-cli",
        "--insecure",
        "--sni-hostname",
        host,
        "--priority",
        priority,
        "-p",
        str(port),
        HOST,
    ]
    return sum("Handshake was completed" in output_of(command) for _number in range(count))


def nss(port: int, host: str, group: str, count: int, directory: Path) -> int:
    program = directory / "nss_handshakes"
    if not program.exists():
        flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "nss"], text=True).split()
        subprocess.run(["cc", "-o", program, SOURCES / "nss_handshakes.c", *flags], check=True)
    return printed_by(program, str(port), host, str(count), str(GROUPS[group][2]))


def java(port: int, host: str, group: str, count: int, _: Path) -> int:
    named = f"-Djdk.tls.namedGroups={groups(group, 3, ',')}"
    return printed_by("java", named, str(SOURCES / "Handshakes.java"), HOST, str(port), host, str(count))


def printed_by(*command: str | Path) -> int:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-500:]
    if done.stderr:
        print(done.stderr[:500])
    return int(done.stdout)


@pytest.mark.parametrize("client", [openssl, gnutls, nss, java], ids=lambda client: client.__name__)
def test_no_honest_handshake_is_refused(
    site: Site, client: Callable[[int, str, str, int, Path], int], tmp_path: Path
) -> None:
    """ECDHE with each group, for an ECDSA key and an RSA key."""
    since = site.daemon.log_size
    pairs = [(host, group) for host in HOSTS for group in GROUPS]
    count = -(-EACH // len(pairs))
    done = {pair: client(site.nginx.port, *pair, count, tmp_path) for pair in pairs}
    results = count_uses(site, since, "tls12-server", count * len(pairs))
    print(
        f"{client.__name__}: {sum(done.values())} handshakes of {count * len(pairs)}; uses of keys: {results}"
    )
    assert set(done.values()) == {count}, done
    assert results == {"performed": count * len(pairs)}


@pytest.mark.parametrize("exchange", ["DHE-RSA", "ECDHE-RSA"])
def test_no_honest_client_certificate_is_refused(site: Site, exchange: str) -> None:
    """OpenSSL as a client whose key is in the token, and GnuTLS as the server; DHE is over a finite field."""
    plan = KeyPlan(f"user-{exchange.lower()}", "p-256", ("tls-client",))
    site.make_key(plan)
    chain, key = site.agent.export(plan.name)
    pem = next(each for each in site.served if each.name == "pem-rsa.test")
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+{exchange}"
    command = [
        "gnutls-serv", "--echo", "-q", "--port", str(port), "--require-client-cert", "--priority", priority,
        "--x509certfile", str(pem.chain), "--x509keyfile", str(pem.key), "--x509cafile", str(site.authority.file),
    ]  # fmt: skip
    count = -(-EACH // 10)
    since = site.daemon.log_size
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: answers(port), "gnutls-serv listens", 10)
            done = sum(client_certificate(port, chain, key, site.openssl) for _ in range(count))
        finally:
            server.kill()
    results = count_uses(site, since, "tls12-client", count)
    print(f"client certificates, {exchange}: {done} handshakes of {count}; uses of keys: {results}")
    assert done == count
    assert results == {"performed": count}


def client_certificate(port: int, chain: Path, key: Path, configuration: Path) -> bool:
    shown = subprocess.run(
        ["openssl", "s_client", "-connect", f"{HOST}:{port}", "-tls1_2", "-cert", chain, "-key", key],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "OPENSSL_CONF": str(configuration)},
    )
    return shown.returncode == 0 and "Cipher is (NONE)" not in shown.stdout


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def count_uses(site: Site, since: int, purpose: str, count: int) -> dict[str, int]:
    """The results of the uses after byte `since` of the audit log, when all have one."""

    def results() -> dict[str, int]:
        return dict(Counter(use.result for use in site.daemon.uses(since) if use.purpose == purpose))

    wait_until(lambda: sum(results().values()) >= count and "" not in results(), "all uses are recorded", 20)
    return results()
