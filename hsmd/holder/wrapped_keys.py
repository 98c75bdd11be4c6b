"""Keys that other software has wrapped to an owner's RSA wrapping key, to be deposited: bare `oaep || kwp` (`envelopes.bare`).

Nothing binds such a blob to what it is for, so the owner says what comes out: which public half, or that it is a symmetric key.
"""

from __future__ import annotations

from hsmd.envelopes.header import Kind, Suite
from hsmd.envelopes.vault.management_keys import WrappingSuite
from hsmd.errors import BadRequest, EnvelopeInvalid
from hsmd.holder import brought_keys
from hsmd.holder.deposits import PrivateKeyInMemory, SecretInMemory
from hsmd.holder.management_keys import ManagementKey

SUITES = tuple(suite.value for suite in Suite if suite.is_rsa)
"""Names of the suites that have a bare form."""


def check_rsa(key: ManagementKey) -> None:
    """Raises BadRequest unless the wrapping key is RSA: others have no form that other software takes."""
    if key.statement.suite is not WrappingSuite.RSA:
        raise BadRequest(
            "other software exchanges keys that are wrapped with RSA, and your management key is of the suite "
            f"{key.statement.suite}; use one of the suite rsa"
        )


def private_key(key: ManagementKey, data: bytes, suite: str, spki: bytes) -> PrivateKeyInMemory:
    """The private key in a blob, whose public half is `spki`; `suite` is one of SUITES, empty for that of the management key.

    Raises BadRequest.
    """
    brought = brought_keys.from_pkcs8(_opened(key, data, suite, Kind.PRIVATE_KEY))
    if brought.spki != spki:
        raise BadRequest(
            "the wrapped key belongs to another public key than the one that was named; nothing was deposited: name its own "
            "with --public, or take the right file"
        )
    return PrivateKeyInMemory(brought)


def secret_key(key: ManagementKey, data: bytes, suite: str) -> SecretInMemory:
    """The symmetric key in a blob. Raises BadRequest."""
    return SecretInMemory(_opened(key, data, suite, Kind.SECRET_KEY))


def _opened(key: ManagementKey, data: bytes, suite: str, kind: Kind) -> bytes:
    check_rsa(key)
    wanted = Suite(suite or key.suite)
    what = "a private key (PKCS#8)" if kind is Kind.PRIVATE_KEY else "a symmetric key of 16, 24, ... 64 bytes"
    try:
        return key.open_bare(data, wanted, kind)
    except EnvelopeInvalid:
        raise BadRequest(
            f"the wrapped key does not open with your management key as {wanted}, or does not hold {what}; find out for which "
            "RSA key it was wrapped and with which hash of OAEP (--suite), or copy it again: it may be cut off"
        ) from None
