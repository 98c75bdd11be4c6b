"""Credentials: what proved the identity of a connection.

`text` is what audit records and results say of a credential. It is made once, because each record of a key operation holds it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyCredential:
    """A public key, by its SHA-256 fingerprint as OpenSSH prints it."""

    fingerprint: str
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.fingerprint)


@dataclass(frozen=True, slots=True)
class CertificateCredential:
    """A user certificate, by its serial number and the fingerprint of the CA that issued it."""

    serial: int
    ca_fingerprint: str
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"cert:{self.serial} {self.ca_fingerprint}")


@dataclass(frozen=True, slots=True)
class DaemonCredential:
    """The daemon itself, which makes requests on its own account and logs in nowhere."""

    text: str = field(default="", init=False)


Credential = KeyCredential | CertificateCredential | DaemonCredential
