"""Ceilings: which purposes a key may have together. They are fixed when the key is generated, imported or adopted.

The rules prevent that a signature for one purpose is used for another: the formats of the TLS purposes exclude each
other, but an arbitrary message or a raw digest can have any of them, and a PKCS #1 v1.5 decryption oracle yields
signatures (Jager, Schwenk, Somorovsky 2015; ROBOT 2017). A key that unwraps and also decrypts reveals the keys that it
unwraps (Clulow 2003).
"""

from __future__ import annotations

from hsmd.algorithms import Family, KeyType
from hsmd.errors import BadRequest
from hsmd.purposes.names import GRANTABLE, OF_KEY_OPERATIONS, TLS_SIGNING, KeyUse, Purpose, labels, use_for

_UNBOUND = frozenset({Purpose.SIGN_MESSAGE, Purpose.SIGN_DIGEST})
_OF_THE_DAEMON = {Purpose.CHECKPOINT: "checkpoints", Purpose.STATEMENT: "statements"}
"""What the daemon's own keys sign. Each is the only purpose of its key, so that audited clients cannot use that key."""
_ALONE = {**_OF_THE_DAEMON, Purpose.X509_AUTHORITY: "certificates"}
"""Purposes that a key has alone."""
_DAEMON_FOR_CERTIFIED_KEYS = frozenset({Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED})


def check_ceiling(key_type: KeyType, purposes: frozenset[Purpose]) -> None:
    """Refuse a ceiling that no key may have.

    Raises BadRequest whose text names the rule and the purposes that break it.
    """
    if not purposes:
        raise BadRequest("purposes: a key needs at least one purpose, for example tls-server")
    for purpose, signed in _ALONE.items():
        if purpose in purposes:
            _check_alone(purposes, purpose, signed)
    for purpose, signed in _OF_THE_DAEMON.items():
        if purpose in purposes:
            _check_daemon_key(key_type, signed)
    _check_one_use(key_type, purposes)
    _check_unbound(key_type, purposes)


def use_of(purposes: frozenset[Purpose]) -> KeyUse:
    """What the token does with a key that has this ceiling, which `check_ceiling` accepts: the same for all its purposes."""
    return use_for(next(iter(purposes)))


def with_daemon_purposes(purposes: frozenset[Purpose]) -> frozenset[Purpose]:
    """The ceiling, extended by the purposes that the daemon needs for the key's certificate.

    Keys that sign for TLS or sign messages also sign their certificate request and a self-signed certificate.
    """
    if purposes & (TLS_SIGNING | {Purpose.SIGN_MESSAGE}):
        return purposes | _DAEMON_FOR_CERTIFIED_KEYS
    return purposes


def check_grantable(ceiling: frozenset[Purpose], wanted: frozenset[Purpose]) -> None:
    """Refuse a grant of purposes outside a key's ceiling, or of purposes reserved for the daemon.

    Raises BadRequest naming the purposes at fault.
    """
    if not wanted:
        raise BadRequest("purposes: a grant names at least one purpose")
    if reserved := wanted - GRANTABLE:
        raise BadRequest(f"purposes: {_join(reserved)} cannot be granted; it is reserved for the daemon")
    if beyond := wanted - ceiling:
        allowed = _join(ceiling & OF_KEY_OPERATIONS) or "none"
        raise BadRequest(f"purposes: the key's purposes, fixed as {allowed}, do not include {_join(beyond)}")


def _check_alone(purposes: frozenset[Purpose], purpose: Purpose, signed: str) -> None:
    """A key that signs what the daemon states, or certificates, has no other purpose."""
    if others := purposes - {purpose}:
        raise BadRequest(
            f"purposes: a key that signs {signed} cannot have other purposes such as {_join(others)}"
        )


def _check_daemon_key(key_type: KeyType, signed: str) -> None:
    """A key that signs what the daemon states has a type that signed notes have."""
    if key_type not in (KeyType.ED25519, KeyType.P256):
        raise BadRequest(f"purposes: {signed} are signed by an ed25519 or p-256 key, not {key_type.value}")


def _check_one_use(key_type: KeyType, purposes: frozenset[Purpose]) -> None:
    """A key signs, decrypts or unwraps; only RSA keys do anything but sign."""
    for use in (KeyUse.UNWRAP, KeyUse.DECRYPT):
        of_this_use = frozenset(purpose for purpose in purposes if use_for(purpose) is use)
        others = purposes - of_this_use
        if of_this_use and others:
            raise BadRequest(
                f"purposes: a key either signs or decrypts or unwraps; {_join(of_this_use)} cannot be combined with "
                f"{_join(others)}; use a second key"
            )
        if of_this_use and key_type.facts.family is not Family.RSA:
            raise BadRequest(f"purposes: {_join(of_this_use)} needs an RSA key, not {key_type.value}")


def _check_unbound(key_type: KeyType, purposes: frozenset[Purpose]) -> None:
    unbound = purposes & _UNBOUND
    if unbound and purposes & TLS_SIGNING:
        raise BadRequest(
            f"purposes: {_join(unbound)} can sign anything and cannot be combined with the TLS purpose "
            f"{_join(purposes & TLS_SIGNING)}; use a second key"
        )
    if Purpose.SIGN_DIGEST in purposes and key_type is KeyType.ED25519:
        raise BadRequest("purposes: an ed25519 key cannot sign-digest, it hashes by itself; use sign-message")


def _join(purposes: frozenset[Purpose]) -> str:
    return ", ".join(labels(purposes))
