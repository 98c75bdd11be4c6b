"""The names of purposes, as codes on the wire and as labels for users."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum

from hsmd.errors import BadRequest

FIRST_DAEMON_CODE = 0x80
"""Purposes from this code on are reserved for the daemon itself (docs/protocol.md, section 3)."""
_LONGEST_ECHO = 40


class Purpose(IntEnum):
    """Purposes and their codes on the wire (docs/protocol.md, section 3)."""

    TLS13_SERVER = 1
    TLS13_CLIENT = 2
    TLS12_SERVER = 3
    TLS12_CLIENT = 4
    TLS12_RSA_PREMASTER = 5
    SIGN_MESSAGE = 8
    SIGN_DIGEST = 9
    X509_REQUEST = 0x80
    X509_SELF_SIGNED = 0x81
    CHECKPOINT = 0x82
    STATEMENT = 0x83
    UNWRAP_KEY = 0x84
    X509_AUTHORITY = 0x85

    @property
    def label(self) -> str:
        """The name for users, for example `tls13-server`."""
        return self.name.lower().replace("_", "-")


class KeyUse(Enum):
    """What the token does with a private key. A key has one use, whatever its purposes."""

    SIGN = "sign"
    DECRYPT = "decrypt"
    UNWRAP = "unwrap"


TLS_SIGNING = frozenset(
    {Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT, Purpose.TLS12_SERVER, Purpose.TLS12_CLIENT}
)
"""Purposes of signatures in TLS handshakes."""

OF_KEY_OPERATIONS = frozenset(purpose for purpose in Purpose if purpose < FIRST_DAEMON_CODE)
"""Purposes of key operation frames: the client chooses the bytes."""

WITH_ALLOWED_NAMES = frozenset({Purpose.X509_REQUEST})
"""Purposes that are granted with allowed names only. The daemon builds the bytes, for the control request `key.csr`."""

GRANTABLE = OF_KEY_OPERATIONS | WITH_ALLOWED_NAMES
"""Purposes that can be granted to a front end."""

GROUPS: dict[str, frozenset[Purpose]] = {
    "tls-server": frozenset({Purpose.TLS13_SERVER, Purpose.TLS12_SERVER}),
    "tls-client": frozenset({Purpose.TLS13_CLIENT, Purpose.TLS12_CLIENT}),
}
"""Labels that stand for several purposes."""

_BY_LABEL = {purpose.label: purpose for purpose in Purpose}
_OTHER_USES = {Purpose.TLS12_RSA_PREMASTER: KeyUse.DECRYPT, Purpose.UNWRAP_KEY: KeyUse.UNWRAP}


def use_for(purpose: Purpose) -> KeyUse:
    """What the token does with the private key for this purpose."""
    return _OTHER_USES.get(purpose, KeyUse.SIGN)


def is_decryption(purpose: Purpose) -> bool:
    """Whether the private key decrypts for this purpose."""
    return use_for(purpose) is KeyUse.DECRYPT


def is_unwrapping(purpose: Purpose) -> bool:
    """Whether the private key unwraps other keys for this purpose. No key operation of the wire protocol does that."""
    return use_for(purpose) is KeyUse.UNWRAP


def purpose_from_label(label: str) -> Purpose:
    """The purpose that a label names; groups are not purposes.

    Raises BadRequest naming the valid labels.
    """
    purpose = _BY_LABEL.get(label)
    if purpose is None:
        raise BadRequest(_unknown(label, _BY_LABEL))
    return purpose


def expand(labels: Iterable[str]) -> frozenset[Purpose]:
    """The purposes that labels of purposes and of groups stand for.

    Raises BadRequest naming the valid labels.
    """
    purposes: set[Purpose] = set()
    for label in labels:
        if label in GROUPS:
            purposes |= GROUPS[label]
        elif label in _BY_LABEL:
            purposes.add(_BY_LABEL[label])
        else:
            raise BadRequest(_unknown(label, [*GROUPS, *_BY_LABEL]))
    return frozenset(purposes)


def labels(purposes: Iterable[Purpose]) -> list[str]:
    """The labels of purposes, each once, in the order of their codes."""
    return [purpose.label for purpose in sorted(set(purposes))]


def _unknown(label: str, valid: Iterable[str]) -> str:
    return f"unknown purpose {label[:_LONGEST_ECHO]!r}; valid are {', '.join(valid)}"
