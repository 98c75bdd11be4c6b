"""The first operator of a new daemon: name, key and profile."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base import profile as profiles, ssh_keys
from hsmd.cli.base.files import PRIVATE, make_directory_for_now, write_new
from hsmd.cli.base.invoking_user import InvokingUser
from hsmd.cli.base.ssh_keys import PublicLine


@dataclass(frozen=True, slots=True)
class Operator:
    """The first operator: client name, public key, and the profile if the key was generated here."""

    name: str
    key: PublicLine
    profile: Path | None


def default_name(user: InvokingUser) -> str:
    """The client name of an operator who gives none."""
    from hsmd.daemon.store.names import is_name

    return user.name if is_name(user.name) else "operator"


def identity_file(profile: Path) -> Path:
    """The private key that a profile names."""
    return profile.with_name(f"{profile.stem}_ed25519")


def make_operator(
    undo: ExitStack,
    user: InvokingUser,
    name: str,
    given_key: str,
    profile: Path,
    host: PublicLine,
    address: str,
) -> Operator:
    """The operator with the key given as line or file, otherwise with a new key and a profile, which `undo` removes."""
    if given_key:
        return Operator(name, ssh_keys.line_or_file(given_key), None)
    identity = identity_file(profile)
    with user.acting():
        make_directory_for_now(undo, profile.parent)
        key = ssh_keys.make_for_now(undo, identity, f"{name}, operator of hsmd")
        text = profiles.render(profiles.Profile(address, name, Path(identity.name), (host.line,)))
        write_new(profile, text, PRIVATE)
        undo.callback(profile.unlink, missing_ok=True)
    return Operator(name, key, profile)
