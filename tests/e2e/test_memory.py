"""No private key and no PIN leaves the token's workers: the memory of all other processes is searched, while keys are in use.

A search that finds nothing proves something only if it can find something: other tests run it on the workers, and on a process
that holds the keys and the PIN.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.authority import private_pem
from tests.support.front_end import HOST, Nginx, Served
from tests.support.memory import (
    Memory,
    Needles,
    ec_needles,
    find_in,
    find_in_files,
    rsa_needles,
    text_needles,
)
from tests.support.polling import wait_until
from tests.support.processes import Process
from tests.support.saturation import Saturation
from tests.support.site import CLIENT, KeyPlan, Site, is_root
from tests.support.tls_load import Lane, Load

SCANS = int(os.environ.get("HSMD_E2E_MEMORY_SCANS", "3"))
"""Number of searches during the handshakes."""
PROOF_S = 40.0
RSA_PLAN = KeyPlan("imported-rsa", "rsa-2048", ("tls-server",))
EC_PLAN = KeyPlan("imported-ec", "p-256", ("tls-server",))
HOLDS_A_KEY = """
import sys
from cryptography.hazmat.primitives.serialization import load_pem_private_key
pin, *files = sys.argv[1:]
held = [load_pem_private_key(open(file, "rb").read(), None) for file in files]
held.append(open(pin).read())
print("ready", flush=True)
import time
time.sleep(600)
"""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The byte patterns of the imported private keys and of the PIN."""

    rsa: Needles
    ec: Needles
    pin: Needles

    @property
    def all(self) -> Needles:
        return {**self.rsa, **self.ec, **self.pin}


@pytest.fixture(scope="module")
def keys() -> tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]:
    return rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def secrets(running_site: Site, keys: tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]) -> Secrets:
    """Both keys are imported into the token, and their files removed."""
    running_site.settle()
    for plan, key in zip((RSA_PLAN, EC_PLAN), keys, strict=True):
        running_site.import_key(plan, private_pem(key))
    running_site.daemon.disconnect()
    return Secrets(
        rsa_needles(keys[0]),
        ec_needles(keys[1]),
        text_needles("pin", pin_file(running_site).read_text().strip()),
    )


@pytest.fixture(scope="module")
def memory(running_site: Site) -> Memory:
    return Memory(running_site.directory)


@pytest.fixture
def nginx(site: Site, secrets: Secrets) -> Iterator[Nginx]:
    """A second nginx, with the imported keys."""
    served = [Served(plan.host, *site.agent.export(plan.name)) for plan in (RSA_PLAN, EC_PLAN)]
    server = Nginx(site.directory / "nginx-memory", site.openssl, served, workers=2)
    server.start()
    yield server
    server.stop()


def pin_file(site: Site) -> Path:
    return site.daemon.directory / "softhsm" / "pin"


def test_only_the_workers_hold_a_secret(site: Site, secrets: Secrets, memory: Memory, nginx: Nginx) -> None:
    """nginx, agent, front process and launcher are searched during and after handshakes, without a restart since the import.

    Without root and sudo, hsmd's processes cannot be read: then the test shows that instead of searching them.
    """
    pids = other_processes(site, nginx)
    hidden = {pid for pid in pids if not memory.can_search(pid)}
    assert not hidden or not is_root()
    assert hidden <= {site.agent.process.pid, site.daemon.process.pid, *site.daemon.fronts()}
    lanes = [
        Lane(plan.host, version, interval_s=0.02)
        for plan in (RSA_PLAN, EC_PLAN)
        for version in ("1.2", "1.3")
    ]
    with Load((HOST, nginx.port), site.authority.file, [lanes], site.directory / "load") as load:
        wait_until(lambda: len(load.samples()) > 100, "handshakes continue")
        for _ in range(SCANS):
            assert not any(memory.find(set(pids) - hidden, secrets.all).values())
            load.check()
    samples = load.samples()
    assert not [sample for sample in samples if sample.error]
    assert {sample.host for sample in samples} == {RSA_PLAN.host, EC_PLAN.host}
    assert not any(memory.find(set(pids) - hidden, secrets.all).values())
    assert pids == other_processes(site, nginx)


def other_processes(site: Site, nginx: Nginx) -> list[int]:
    """All processes that use the keys, without the token's workers."""
    return [
        *nginx.pids(),
        *site.nginx.pids(),
        site.agent.process.pid,
        site.daemon.process.pid,
        *site.daemon.fronts(),
    ]


def test_files_of_front_end_and_daemon_hold_no_secret(site: Site, secrets: Secrets, nginx: Nginx) -> None:
    """Nor do the daemon's files, except the PIN file, where the search must find the PIN."""
    for directory in (site.agent.directory, nginx.directory, site.nginx.directory):
        assert find_in_files(directory, secrets.all) == {}
    daemon = find_in_files(site.daemon.directory, secrets.all)
    assert daemon == {str(pin_file(site)): {"pin"}}


def test_the_front_ends_only_private_file_is_its_identity(site: Site) -> None:
    private = {
        path.name
        for path in site.agent.directory.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    }
    assert private == {"agent_ed25519"}
    for reference in site.agent.keys.glob("*.key"):
        assert reference.read_text().startswith("-----BEGIN HSMD KEY REFERENCE-----")


def test_the_search_finds_keys_in_a_worker_that_uses_them(
    site: Site, secrets: Secrets, memory: Memory
) -> None:
    """SoftHSM has the key in clear while it signs. Where a worker's memory cannot be read, there is nothing to test."""
    if not memory.can_search(site.daemon.workers()[0]):
        return
    endpoint = site.daemon.endpoint(CLIENT, site.agent.directory / "agent_ed25519")
    for plan, scheme, needles in ((RSA_PLAN, 0x0804, secrets.rsa), (EC_PLAN, 0x0403, secrets.ec)):
        digest = bytes.fromhex(site.daemon.command("key", "show", plan.name)["digest"])
        with Saturation(endpoint, digest, scheme) as saturation:
            found = search_until_found(memory, site.daemon.workers(), needles)
        assert found, f"{plan.name} was not found in a worker that made {saturation.count} signatures"


def search_until_found(memory: Memory, pids: list[int], needles: Needles) -> set[str]:
    ends = time.monotonic() + PROOF_S
    while time.monotonic() < ends:
        found = set[str]().union(*memory.find(pids, needles).values())
        if found:
            return found
    return set()


def test_the_search_finds_secrets_in_a_process_that_holds_them(
    site: Site,
    secrets: Secrets,
    memory: Memory,
    keys: tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey],
    tmp_path: Path,
) -> None:
    """A Python process that has loaded both keys with OpenSSL, and read the PIN."""
    files = [tmp_path / "rsa.pem", tmp_path / "ec.pem"]
    for file, key in zip(files, keys, strict=True):
        file.write_bytes(private_pem(key))
    with holder([str(pin_file(site)), *map(str, files)], tmp_path / "log") as pid:
        found = memory.find([pid], secrets.all)[pid]
    assert {"pin", "p", "q", "scalar"} <= found


@contextmanager
def holder(arguments: list[str], log: Path) -> Iterator[int]:
    process = Process([sys.executable, "-c", HOLDS_A_KEY, *arguments], log)
    try:
        wait_until(lambda: "ready" in log.read_text(), "the process holds the keys")
        yield process.pid
    finally:
        process.stop()


def test_the_search_knows_every_layout(keys: tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]) -> None:
    """Numbers as they are encoded in DER, in OpenSSL's limbs, in hexadecimal dumps and in PEM files."""
    numbers = keys[0].private_numbers()
    needles = rsa_needles(keys[0])
    size = keys[0].key_size // 16
    assert find_in(numbers.p.to_bytes(size, "big"), needles) == {"p"}
    assert find_in(numbers.q.to_bytes(size, "little"), needles) == {"q"}
    assert find_in(f"{numbers.p:x}".encode(), needles) == {"p"}
    assert find_in(f"{numbers.p:X}".encode(), needles) == {"p"}
    one_line = private_pem(keys[0]).replace(b"\n", b"")
    assert {"p", "q", "d"} <= find_in(one_line, needles)
    assert find_in(private_pem(keys[1]).replace(b"\n", b""), ec_needles(keys[1])) == {"scalar"}
