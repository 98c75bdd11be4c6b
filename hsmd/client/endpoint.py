"""Endpoints: the address of a daemon or an agent, the host keys that identify a daemon, and the client's own identity.

Everything that a connection trusts is in here; nothing is taken from the user's OpenSSH configuration.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from hsmd.errors import BadRequest, ConfigurationError
from hsmd.system.addresses import host_fault, join_address, split_address

MAX_IDENTITY_BYTES = 64 * 1024
_HOST_KEY_TYPE = b"ssh-ed25519"
_ED25519_BLOB_BYTES = 4 + len(_HOST_KEY_TYPE) + 4 + 32
_CA_PREFIX = "cert-authority"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A daemon and its pinned host keys.

    `host_keys` are OpenSSH public key lines (`ssh-ed25519 AAAA...`); after `cert-authority `, the key of a host CA
    whose certificates must name `host`. `user` is the client's name at the daemon, `identity_file` its OpenSSH private key,
    `certificate_file` the user certificate for that key, if any.

    Raises ConfigurationError that lists every fault.
    """

    host: str
    port: int
    host_keys: tuple[str, ...]
    user: str
    identity_file: Path
    certificate_file: Path | None = None

    def __post_init__(self) -> None:
        if faults := self._faults():
            raise ConfigurationError("endpoint", faults)

    @property
    def address(self) -> str:
        """`host:port`, IPv6 addresses in brackets."""
        return join_address(self.host, self.port)

    def __str__(self) -> str:
        return f"daemon at {self.address}"

    def _faults(self) -> list[str]:
        faults = []
        if fault := host_fault(self.host):
            faults.append(f"host: {self.host[:80]!r}: {fault}")
        if not 0 < self.port < 65_536:
            faults.append(f"port: {self.port} is not between 1 and 65535")
        if not _NAME.match(self.user):
            faults.append(
                f"user: {self.user[:80]!r} is not a client name (letters, digits, . _ -; at most 64)"
            )
        if not self.host_keys:
            faults.append(
                "host_keys: none given; pin the daemon's host key (`hsmd init` prints it) or its host CA"
            )
        faults.extend(f"host_keys: {fault}" for line in self.host_keys if (fault := host_key_fault(line)))
        return faults


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """An agent's Unix socket. Its directory is trusted; there is no key to pin."""

    path: Path

    def __str__(self) -> str:
        return f"agent at {self.path}"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port` or `[v6]:port`; the port is 7440 unless given. Raises BadRequest."""
    try:
        host, port = split_address(text)
    except ValueError as error:
        raise BadRequest(f"{error}; an address looks like 192.0.2.1:7440 or [2001:db8::1]:7440") from None
    if port == 0:
        raise BadRequest(f"{text[:80]!r} is not an address: it has no valid port; give one from 1 to 65535")
    return host, port


def split_host_key(line: str) -> tuple[bool, str]:
    """(whether it is a host CA, the OpenSSH public key line) of an entry of `host_keys`."""
    words = line.split()
    is_ca = bool(words) and words[0] == _CA_PREFIX
    return is_ca, " ".join(words[1:] if is_ca else words)


def host_key_fault(line: str) -> str:
    """What is wrong with an entry of `host_keys`, empty if nothing is."""
    words = split_host_key(line)[1].split()
    if len(words) < 2 or words[0] != _HOST_KEY_TYPE.decode():
        return f"{line[:40]!r} is not an Ed25519 key; it looks like: ssh-ed25519 AAAA..."
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return f"{line[:40]!r} is not valid base64; copy the whole line"
    if len(blob) != _ED25519_BLOB_BYTES or blob[4:15] != _HOST_KEY_TYPE:
        return f"{line[:40]!r} is cut off or damaged; copy the whole line"
    return ""


def read_identity(path: Path) -> bytes:
    """The bytes of a private key file, which must be accessible to its owner only, as OpenSSH requires.

    Raises ConfigurationError naming the file and the fix.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError("identity", [f"{path}: {error.strerror}"]) from None
    try:
        if fault := _identity_fault(os.fstat(descriptor)):
            raise ConfigurationError("identity", [f"{path}: {fault}"])
        return os.read(descriptor, MAX_IDENTITY_BYTES)
    finally:
        os.close(descriptor)


def _identity_fault(status: os.stat_result) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if status.st_uid not in (os.geteuid(), 0):
        return "belongs to another user; it must belong to the user that runs this program"
    if status.st_mode & 0o077:
        return f"other users may access it (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600"
    return ""
