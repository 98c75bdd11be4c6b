"""The profile file (operator.toml) of a person or program: how to reach a daemon, who it is there, and what it accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hsmd.errors import ConfigurationError
from hsmd.system.host_users import expand_home
from hsmd.system.toml_table import TomlTable, parse_text, read_readable


@dataclass(frozen=True, slots=True)
class Profile:
    """How to reach a daemon: `daemon` is ADDRESS:PORT, `host_keys` are OpenSSH lines, `user` is the client name.

    `operator_keys` (OpenSSH lines) and `statement_keys` (verifier key lines) are what the daemon gave at enrolment.
    """

    daemon: str = ""
    user: str = ""
    identity: Path | None = None
    host_keys: tuple[str, ...] = ()
    operator_keys: tuple[str, ...] = ()
    statement_keys: tuple[str, ...] = ()

    def merged(self, **given: Any) -> Profile:
        """This profile with the values given on the command line in place of its own."""
        return replace(self, **{name: value for name, value in given.items() if value})

    def missing(self) -> list[str]:
        """Options that are needed to complete it."""
        names = {"daemon": "--daemon", "user": "--user", "identity": "--identity", "host_keys": "--host-key"}
        return [option for name, option in names.items() if not getattr(self, name)]


def read(path: Path) -> Profile:
    """The profile in `path`; `identity` may be relative to it. Raises OSError, or ConfigurationError for an invalid file."""
    faults: list[str] = []
    table = TomlTable(parse_text(read_readable(path), str(path)), "", faults, path.parent)
    identity = table.text("identity")
    profile = Profile(
        daemon=table.text("daemon"),
        user=table.text("user"),
        identity=path.parent / expand_home(identity) if identity else None,
        host_keys=tuple(table.strings("host_keys", ())),
        operator_keys=tuple(table.strings("operator_keys", ())),
        statement_keys=tuple(table.strings("statement_keys", ())),
    )
    table.end()
    if faults:
        raise ConfigurationError(str(path), faults)
    return profile


def remembered_keys(path: Path) -> Path:
    """Where statement keys are remembered that operators have endorsed since: beside the profile."""
    return path.absolute().with_name(f"{path.stem}.statement-keys.json")
