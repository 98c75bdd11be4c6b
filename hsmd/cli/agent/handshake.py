"""TLS handshakes that a check makes with itself: with the key of a server, as the user of that server, in its chroot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from hsmd.system import atomic_file
from hsmd.system.host_users import Account
from hsmd.system.places import acting_for

_CHILD = Path(__file__).with_name("handshake_child.py")
_AT_A_TIME = 64
_START_S, _EACH_S = 10.0, 2.5
_ECDHE = "ECDHE"
_RSA_KEY_EXCHANGE = "AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA256:AES128-SHA"


@dataclass(frozen=True, slots=True)
class Kind:
    """A handshake that a purpose allows: its name, the end that has the key, the version, and the cipher suites of TLS 1.2."""

    name: str
    role: str
    version: str
    ciphers: str


KINDS = {
    "tls13-server": Kind("TLS 1.3", "server", "TLS 1.3", ""),
    "tls12-server": Kind("TLS 1.2", "server", "TLS 1.2", _ECDHE),
    "tls12-rsa-premaster": Kind("TLS 1.2 with RSA key exchange", "server", "TLS 1.2", _RSA_KEY_EXCHANGE),
    "tls13-client": Kind("TLS 1.3 as a client", "client", "TLS 1.3", ""),
    "tls12-client": Kind("TLS 1.2 as a client", "client", "TLS 1.2", _ECDHE),
}
"""By purpose of the key."""


@dataclass(frozen=True, slots=True)
class Actor:
    """How a server uses its keys: the user and groups that it has then, None for those of the caller; whether it loads them
    before, as root; its chroot; directories that its service shows elsewhere; its OpenSSL configuration."""

    openssl: Path
    account: Account | None = None
    groups: tuple[int, ...] = ()
    loads_as_root: bool = False
    chroot: Path | None = None
    binds: tuple[tuple[Path, Path], ...] = ()

    @property
    def name(self) -> str:
        """For messages: `as haproxy, in /var/lib/haproxy`."""
        user = "you" if self.account is None else self.account.name
        return f"as {user}, in {self.chroot}" if self.chroot else f"as {user}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A handshake to be tried with the files of a key."""

    key: str
    kind: Kind
    certificate: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it: `error` is empty for success; `stage` is `load` if the files could not be loaded."""

    attempt: Attempt
    error: str
    stage: str


@dataclass(frozen=True, slots=True)
class _Job:
    """What handshake_child.py reads. `uid` is null for the caller's own user."""

    loads_as_root: bool
    chroot: str
    binds: list[list[str]]
    uid: int | None
    gid: int
    groups: list[int]
    cases: list[dict[str, str]] = field(default_factory=list)


def try_all(actor: Actor, attempts: Sequence[Attempt]) -> Iterator[Outcome]:
    """Try handshakes one after the other. Raises OSError or RuntimeError if they cannot be tried at all."""
    with tempfile.TemporaryDirectory(prefix="hsmd-check-") as directory:
        peer = Path(directory) / "peer.pem"
        atomic_file.create(peer, _peer_identity())
        for at in range(0, len(attempts), _AT_A_TIME):
            yield from _try_some(actor, attempts[at : at + _AT_A_TIME], peer)


def _try_some(actor: Actor, attempts: Sequence[Attempt], peer: Path) -> Iterator[Outcome]:
    account = actor.account if os.geteuid() == 0 else None
    if os.geteuid() == 0:
        _make_places(actor.binds)
    job = _Job(
        loads_as_root=actor.loads_as_root or account is None,
        chroot=str(actor.chroot or "") if os.geteuid() == 0 else "",
        binds=[[str(source), str(target)] for source, target in actor.binds] if os.geteuid() == 0 else [],
        uid=None if account is None else account.uid,
        gid=0 if account is None else account.gid,
        groups=list(actor.groups),
        cases=[
            {
                "role": each.kind.role,
                "version": each.kind.version,
                "ciphers": each.kind.ciphers,
                "certificate": str(each.certificate),
                "key": str(each.reference),
                "peer": str(peer),
            }
            for each in attempts
        ],
    )
    done = subprocess.run(
        [sys.executable, "-I", str(_CHILD)],
        input=json.dumps(asdict(job)),
        env={"PATH": "/usr/bin:/bin", "OPENSSL_CONF": str(actor.openssl)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_START_S + _EACH_S * len(attempts),
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended without a reason"])[-1])
    for attempt, outcome in zip(attempts, json.loads(done.stdout), strict=True):
        yield Outcome(attempt, outcome["error"], outcome["stage"])


def _make_places(binds: Sequence[tuple[Path, Path]]) -> None:
    """Make the directories at which others are shown, as systemd does; in those of the server's user, as that user."""
    for source, target in binds:
        if source.is_dir():
            with suppress(OSError), acting_for(target):  # without one, the child says so
                target.mkdir(mode=0o755, parents=True, exist_ok=True)


def _peer_identity() -> bytes:
    """Key and certificate of the other end of a handshake with a client's key, which is thrown away."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hsmd agent check")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM) + private
