"""operator.toml: the daemon an operator manages, the operator's identity, and the accepted host keys."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.invoking_user import invoking_user

PROFILE_NAME = "operator.toml"


@dataclass(frozen=True, slots=True)
class Profile:
    """How to reach a daemon: `daemon` is ADDRESS:PORT, `host_keys` are OpenSSH lines, `user` is the client name."""

    daemon: str = ""
    user: str = ""
    identity: Path | None = None
    host_keys: tuple[str, ...] = ()

    def merged(self, **given: Any) -> Profile:
        """This profile with the values given on the command line in place of its own."""
        return replace(self, **{name: value for name, value in given.items() if value})

    def missing(self) -> list[str]:
        """Options that are needed to complete it."""
        names = {"daemon": "--daemon", "user": "--user", "identity": "--identity", "host_keys": "--host-key"}
        return [names[field.name] for field in fields(self) if not getattr(self, field.name)]


def default_path() -> Path:
    """Where `hsmd init` and `hsmd enroll` write the profile, and where all commands read it."""
    return invoking_user().configuration / PROFILE_NAME


def load(path: Path) -> Profile:
    """Read the profile in `path`; `identity` may be relative to it. Raises CommandError for an invalid file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f"is not TOML: {error}") from None
    known = {"daemon": str, "user": str, "identity": str, "host_keys": list}
    for name, value in values.items():
        if name not in known:
            raise _wrong(path, f"{name} is not a setting; valid settings are {', '.join(known)}")
        if not isinstance(value, known[name]):
            raise _wrong(path, f"{name} must be a {'list of strings' if known[name] is list else 'string'}")
    identity = values.get("identity")
    return Profile(
        daemon=values.get("daemon", ""),
        user=values.get("user", ""),
        identity=path.parent / Path(identity).expanduser() if identity else None,
        host_keys=tuple(str(line) for line in values.get("host_keys", [])),
    )


def render(profile: Profile) -> str:
    """The text of a profile file."""
    from hsmd.cli.base.toml import quote

    keys = "".join(f"    {quote(line)},\n" for line in profile.host_keys)
    return (
        "# How the hsmd commands of this user reach the daemon. Command-line options take precedence.\n"
        f"daemon = {quote(profile.daemon)}\n"
        f"user = {quote(profile.user)}\n"
        f"identity = {quote(str(profile.identity))}\n"
        "# Accepted host keys, or host CAs with the prefix `cert-authority`.\n"
        f"host_keys = [\n{keys}]\n"
    )


def _wrong(path: Path, text: str) -> CommandError:
    return CommandError(f"{path}: {text}", "correct the file, or name another with --profile", Exit.USAGE)
