"""A front end's directories without its programs: what an agent writes, what servers read, and what root lists."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from hsmd.client import keyref
from hsmd.client.keyref import KeyReference
from hsmd.deployment.deploy import Deployed, Places, deploy
from hsmd.deployment.servers import Server
from hsmd.deployment.versions import CertificateVersions, Offer, Outcome

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Key:
    """A key of a token, of which tests need the public half, and certificates for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.public_key = self._private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def reference(self) -> KeyReference:
        """The reference to it."""
        return KeyReference(self.name, self.public_key)

    def chain(self, begin: datetime = NOW - DAY, end: datetime = NOW + 30 * DAY) -> str:
        """A new certificate, in PEM."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .sign(self._private, hashes.SHA256())
        )
        return made.public_bytes(Encoding.PEM).decode()

    def offer(self, chain: str = "") -> Offer:
        """What the agent is given for it: a new certificate by default."""
        return Offer(self.reference, chain or self.chain())


class FrontEnd:
    """The directories below `root`, and the two sides of a renewal."""

    def __init__(self, root: Path) -> None:
        root.chmod(0o755)
        self.places = Places(root / "state", root / "servers.d", root / "keys", root / "installed.json")
        for directory in (self.places.state, self.places.servers, self.places.keys):
            directory.mkdir(mode=0o755)
        self.versions = CertificateVersions(self.places.state)
        self.reloads: list[str] = []
        self.faults: dict[str, str] = {}
        """What reloads of servers answer."""
        self.unlisted: list[Server] = []

    def export(
        self, key: Key, chain: str = "", *, stem: str = "", suffix: str = ".key", mode: int = 0o640
    ) -> Path:
        """Files that an export has written; return that of the key reference."""
        stem = stem or key.name
        reference = self.places.keys / f"{stem}{suffix}"
        reference.write_text(keyref.encode(key.reference))
        reference.chmod(mode)
        if chain:
            self.chain(stem).write_text(chain)
            self.chain(stem).chmod(0o644)
        return reference

    def chain(self, stem: str) -> Path:
        """The file of a chain that servers read."""
        return self.places.keys / f"{stem}.pem"

    def list_server(self, name: str, text: str) -> Path:
        """List a server as root does."""
        path = self.places.servers / f"{name}.toml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def renew(self, *offers: Offer) -> Outcome:
        """The agent's side."""
        outcome = self.versions.write(offers, NOW)
        self.versions.announce()
        return outcome

    def deploy(self, now: datetime = NOW) -> Deployed:
        """Root's side."""

        def reload(server: Server) -> str:
            self.reloads.append(server.name)
            return self.faults.get(server.name, "")

        return deploy(self.places, now, reload=reload, unlisted=lambda listed, directory: self.unlisted)


def content(directory: Path) -> dict[str, bytes]:
    """Every regular file below `directory` by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def is_root() -> bool:
    """Whether tests run as root, who can give files to others."""
    return os.geteuid() == 0
