"""What both ends of an SSH connection fix: algorithms, names, and packets that are not needed.

Used by the client's transport and by the daemon's listener, so that the two cannot drift apart (DESIGN, decision 12).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SUBSYSTEM = "hsmd"
KEX_ALGORITHMS = ("mlkem768x25519-sha256", "curve25519-sha256")
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
HOST_KEY_ALGORITHMS = ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519")
IDENTITY_ALGORITHM = "ssh-ed25519"
WINDOW_BYTES = 1 << 20
REKEY_SECONDS = 3_600

CLOSED: Mapping[str, Any] = MappingProxyType(
    {
        "config": [],
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "client_keys": None,
        "client_certs": (),
        "agent_path": None,
        "pkcs11_provider": None,
        "gss_host": None,
        "gss_kex": False,
        "gss_auth": False,
        "disable_trivial_auth": True,
        "send_env": [],
        "kex_algs": KEX_ALGORITHMS,
        "encryption_algs": CIPHERS,
        "compression_algs": ["none"],
        "signature_algs": [IDENTITY_ALGORITHM],
        "keepalive_interval": 0,
        "client_version": "hsmd",
    }
)
"""Options of every connection that we make: all through which asyncssh would otherwise look around in the user's environment."""

_MSG_IGNORE = 2
"""SSH_MSG_IGNORE (RFC 4253, section 11.2)."""


def without_ignore_packets(connection: Any) -> None:
    """Stop asyncssh from sending an SSH_MSG_IGNORE before every packet of this connection.

    They answer an attack on chained initialisation vectors of CBC ciphers (RFC 4251, section 9.3.1); with AES-GCM, the
    only cipher we negotiate, they only double the number of packets. A canary test fails if asyncssh changes here.
    """
    send_packet = connection.send_packet

    def send(packet_type: int, *payload: bytes, **options: Any) -> None:
        if packet_type != _MSG_IGNORE:
            send_packet(packet_type, *payload, **options)

    connection.send_packet = send
