"""`hsmd key import`: a private key from a PEM file into the token, on the token's own host and past the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.connection import SLOW_TIMEOUT_S, Session
from hsmd.cli.base.failures import Exit, Stop
from hsmd.errors import HsmdError, NotFound
from hsmd.protocol.messages import KeyAdopt, KeyInfo, KeyShow

if TYPE_CHECKING:
    from hsmd.daemon.config.settings import Config, TokenConfig


def import_key(
    session: Session,
    name: str,
    pem: Path,
    passphrase: Path | None,
    config_file: Path,
    token_name: str,
    purposes: Sequence[str],
) -> KeyInfo:
    """Puts the key into the token with a worker of our own, then has the daemon serve it. Raises HsmdError or Stop.

    The PEM file is opened here and read by the worker alone; what the daemon hears of is a key in its token.
    """
    from hsmd.daemon.config import reader as configuration
    from hsmd.daemon.ipc import key_import
    from hsmd.daemon.ipc.worker_settings import worker_settings

    config = configuration.load(config_file)
    token = _token(config, token_name)
    _check_name_is_free(session, name)
    described = key_import.import_key(
        worker_settings(config, token, control=True),
        environment=dict(token.environment),
        pem=pem,
        passphrase=passphrase,
        name=name,
        purposes=purposes,
    )
    try:
        request = KeyAdopt(name=name, token=token.name, cka_id=described.cka_id)
        return session.ask(request, KeyInfo, timeout_s=SLOW_TIMEOUT_S)
    except HsmdError as error:
        what = f"the key is in the token, but the daemon does not serve it yet: {error.text}"
        raise Stop(what, f"mend that, then: hsmd key adopt {name} --id {described.cka_id}") from error


def _check_name_is_free(session: Session, name: str) -> None:
    """Also shows that the daemon can be reached, before the token is changed."""
    try:
        session.ask(KeyShow(name), KeyInfo)
    except NotFound:
        return
    raise Stop(f"there is a key called {name} already", "choose another name")


def _token(config: Config, name: str) -> TokenConfig:
    if not name and len(config.tokens) == 1:
        return config.tokens[0]
    for token in config.tokens:
        if token.name == name:
            return token
    names = ", ".join(token.name for token in config.tokens)
    raise Stop(f"{config.path} has the tokens {names}", "choose one with --token", Exit.USAGE)
