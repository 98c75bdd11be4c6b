"""Where the private key of a node's certificate is: in a file, in a token of the node's own, or behind the agent of this host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hsmd.algorithms import KeyType
from hsmd.anchors import pem_bundle
from hsmd.anchors.problems import CertificatesInvalid
from hsmd.client import AgentEndpoint, Client, keyref
from hsmd.client.keyref import KeyReference
from hsmd.errors import BadRequest
from hsmd.node.tls_keys import TlsKey
from hsmd.node.trust import Certificates
from hsmd.protocol.messages import CertificateExport, KeyShow

ASK_S = 10.0


class Keys(Protocol):
    """A source of keys. Methods raise HsmdError."""

    def new(self) -> TlsKey:
        """The key for a first certificate, or for one after a key that is not to be used any more."""

    def suits(self, key: TlsKey) -> bool:
        """Whether a certificate may be renewed for this key."""

    def request(self, key: TlsKey) -> str:
        """A certificate request in PEM."""

    def served(self) -> tuple[TlsKey, Certificates] | None:
        """The key and chain as they are elsewhere; None if the node asks for certificates itself."""


@dataclass(frozen=True, slots=True)
class FileKeys:
    """Keys that the node makes and that stay in its files."""

    key_type: KeyType

    def new(self) -> TlsKey:
        return TlsKey.generate(self.key_type)

    def suits(self, key: TlsKey) -> bool:
        return key.key_type is self.key_type

    def request(self, key: TlsKey) -> str:
        return key.request()

    def served(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """One P-256 key in a token of the node's: `file` has the token's settings, `label` names it. Needs the extra `token`."""

    file: Path
    label: str

    def new(self) -> TlsKey:
        from hsmd.node.token_key import public_key

        return TlsKey(b"", public_key(self.file, self.label))

    def suits(self, key: TlsKey) -> bool:
        return not key.pem and key.key_type is KeyType.P256

    def request(self, key: TlsKey) -> str:
        from hsmd.node.token_key import request

        return request(self.file, self.label, key.public)

    def served(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class AgentKeys:
    """A key that the daemon serves, through the agent of this host; whoever certifies it there renews it."""

    socket: Path
    name: str
    connect: Callable[[AgentEndpoint], Client] = Client.connect

    def new(self) -> TlsKey:
        return self.served()[0]

    def suits(self, key: TlsKey) -> bool:
        return True

    def request(self, key: TlsKey) -> str:
        raise BadRequest(f"the key {self.name} is certified where it is: hsmd ca issue AUTHORITY {self.name}")

    def served(self) -> tuple[TlsKey, Certificates]:
        with self.connect(AgentEndpoint(self.socket)) as agent:
            info = agent.control(KeyShow(self.name), timeout_s=ASK_S)
            chain = agent.control(CertificateExport(self.name), timeout_s=ASK_S).pem
        if hashlib.sha256(info.public_key).hexdigest() != info.digest:
            raise CertificatesInvalid(f"the public key received for {self.name} does not match its digest")
        reference = keyref.encode(KeyReference(info.name, info.public_key))
        return TlsKey(reference.encode(), info.public_key), pem_bundle.parse(
            chain.encode(), "the chain of the agent"
        )
