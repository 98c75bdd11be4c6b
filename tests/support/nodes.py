"""Clients with the role `node`, and the certificate requests that they make."""

from __future__ import annotations

from typing import Any

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.protocol import messages
from hsmd.protocol.roles import Role, in_order
from tests.support.daemon import Daemon, public_line


def add_node(daemon: Daemon, name: str, *roles: str) -> str:
    """Add a client with this role, `node` if none is given, whose key `Daemon.ask` finds; returns its name."""
    key = daemon.keys[name] = asyncssh.generate_private_key("ssh-ed25519")
    path = daemon.directory / name
    path.touch(mode=0o600)
    key.write_private_key(path)
    held = [each.value for each in in_order([Role(role) for role in roles or ("node",)])]
    daemon.ask(messages.ClientAdd(name, held[0], public_line(key), role_set=held))
    return name


def node_key() -> ec.EllipticCurvePrivateKey:
    """A key of a node's own."""
    return ec.generate_private_key(ec.SECP256R1())


def node_request(
    key: Any, *extensions: x509.ExtensionType, common_name: str = "", algorithm: Any = SHA256
) -> str:
    """A PKCS#10 request in PEM, with critical extensions."""
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(attributes))
    for extension in extensions:
        builder = builder.add_extension(extension, True)
    return builder.sign(key, algorithm and algorithm()).public_bytes(Encoding.PEM).decode()
