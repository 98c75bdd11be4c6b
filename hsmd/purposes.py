"""Purposes: what may be done with a key, and the check that bytes are what their purpose says.

The check is a pure function. It runs in the token worker, beside the key; the front process decides grants before that.
"""

from __future__ import annotations

from enum import IntEnum


class Purpose(IntEnum):
    """Purposes and their codes on the wire (docs/protocol.md, section 3); from 0x80 on only the daemon itself asks."""

    TLS13_SERVER = 1
    TLS13_CLIENT = 2
    TLS12_SERVER = 3
    TLS12_CLIENT = 4
    TLS12_RSA_PREMASTER = 5
    SIGN_MESSAGE = 8
    SIGN_DIGEST = 9
    X509_REQUEST = 0x80
    X509_SELF_SIGNED = 0x81

    @property
    def label(self) -> str:
        """The name people type and read, for example `tls13-server`."""
        return self.name.lower().replace("_", "-")
