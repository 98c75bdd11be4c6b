"""What a key of the vault cannot be used for, told from what the daemon shows of it: before a use is counted.

The daemon may show something wrong. Then a use is counted for nothing, as without this; nothing is decided by it.
"""

from __future__ import annotations

from hsmd.algorithms import KeyType
from hsmd.envelopes.header import Kind
from hsmd.errors import BadRequest
from hsmd.holder import wrapped_keys
from hsmd.holder.management_keys import ManagementKey
from hsmd.holder.own_statements import ForeignManagementKey
from hsmd.protocol.messages import VaultVersion

_IN_TOKENS = frozenset(each.value for each in KeyType)
_NOT_IN_SSH = "x25519"
_UNCOUNTED = "no use was counted"


def check_opens(shown: VaultVersion, key: ManagementKey, former: ManagementKey | None) -> None:
    """Raises ForeignManagementKey unless one of these management keys opens the envelope."""
    keys = [key, *([former] if former is not None else [])]
    if shown.management not in [each.statement.digest.hex() for each in keys]:
        raise ForeignManagementKey(
            f"{shown.record} version {shown.version} was deposited with another management key (statement "
            f"{shown.management[:16]}...) than number {key.statement.number} ({_UNCOUNTED}); use the file or backup of that key "
            "(while it is being replaced, name the file of that key with --old-management-key)"
        )


def check_for_token(shown: VaultVersion) -> None:
    """Raises BadRequest for a key that is not kept in a token."""
    if shown.kind == Kind.SECRET_KEY:
        raise BadRequest(f"a symmetric key is not put into a token ({_UNCOUNTED}); take it out into a file")
    if shown.key_type and shown.key_type not in _IN_TOKENS:
        raise BadRequest(
            f"tokens take no key of the type {shown.key_type}, and {shown.record} is one ({_UNCOUNTED}); take it out into a file"
        )


def check_for_ssh(shown: VaultVersion) -> None:
    """Raises BadRequest for a private key that SSH does not use."""
    if shown.key_type == _NOT_IN_SSH:
        raise BadRequest(
            f"SSH uses RSA, EC and Ed25519 keys, and {shown.record} is of the type {shown.key_type} ({_UNCOUNTED}); take it "
            "out into a file"
        )


def check_wrapped_by_rsa(shown: VaultVersion) -> None:
    """Raises BadRequest unless the envelope is one that other software opens with an RSA key."""
    if shown.suite not in wrapped_keys.SUITES:
        raise BadRequest(
            f"{shown.record} version {shown.version} is wrapped with {shown.suite}, and not for an RSA key ({_UNCOUNTED}); take "
            "it out with --output"
        )


def check_private(shown: VaultVersion, options: str) -> None:
    """Raises BadRequest for a symmetric key, to which `options` do not apply."""
    if shown.kind == Kind.SECRET_KEY:
        raise BadRequest(
            f"{options} is for private keys, and {shown.record} is a symmetric one ({_UNCOUNTED}); leave it out"
        )
