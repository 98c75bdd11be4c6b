"""The purposes of a grant whose purposes were not named: those of TLS servers that the key has."""

from __future__ import annotations

from hsmd.cli.base.connection import Session
from hsmd.errors import NotFound
from hsmd.protocol.messages import KeyInfo, KeyShow

_ALL = ["tls-server"]


def of_key(session: Session, name: str) -> list[str]:
    """Those of the key with this name; all if there is no such key, which the daemon says when it is asked for the grant."""
    try:
        return of(session.ask(KeyShow(name=name), KeyInfo))
    except NotFound:
        return _ALL


def of(key: KeyInfo) -> list[str]:
    """The purposes of TLS servers that this key has; all if it has none, which the daemon refuses with the reason."""
    found = [purpose for purpose in key.purposes if purpose in {"tls13-server", "tls12-server"}]
    return found if len(found) == 1 else _ALL
