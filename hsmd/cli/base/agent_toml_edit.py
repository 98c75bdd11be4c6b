"""Changing settings of an existing agent.toml, and nothing else in it: comments and order stay."""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.toml import quote
from hsmd.system import atomic_file

if TYPE_CHECKING:
    from hsmd.agent.config import AgentConfig

_HEADER = re.compile(r"^\s*\[")
_COMMENT = re.compile(r"^\s*(#.*)?$")
_DAEMON = re.compile(r"^\s*\[\[\s*daemon\s*\]\]\s*(#.*)?$")


class AgentToml:
    """The lines of an agent.toml, and what they mean. Methods return a changed copy; raise CommandError if they cannot."""

    def __init__(self, file: Path, text: str) -> None:
        from hsmd.agent.config import parse

        self.file = file
        self.text = text
        self.config: AgentConfig = parse(text, source=str(file))

    @classmethod
    def read(cls, file: Path) -> AgentToml:
        """The file. Raises ConfigurationError."""
        from hsmd.system.toml_table import read_text

        return cls(file, read_text(file))

    def write(self) -> None:
        """Replace the file; owner and mode stay."""
        found = self.file.stat()
        atomic_file.replace(
            self.file, self.text, stat.S_IMODE(found.st_mode), owner=(found.st_uid, found.st_gid)
        )

    def with_daemon(self, address: str, host_keys: Iterable[str]) -> AgentToml:
        """With one more daemon, the last to be tried."""
        return AgentToml(self.file, append_daemon(self.text, address, host_keys))

    def without_daemon(self, address: str) -> AgentToml:
        """Without the section of a daemon."""
        addresses = [daemon.address for daemon in self.config.daemons]
        if address not in addresses:
            raise CommandError(
                f"{self.file} names no daemon {address}", f"it names: {', '.join(addresses)}", Exit.USAGE
            )
        if len(addresses) == 1:
            raise CommandError(
                f"{address} is the only daemon of this agent",
                "add another one first (hsmd agent daemon add), or stop the agent",
                Exit.USAGE,
            )
        return self._checked(self._without({addresses.index(address)}), len(addresses) - 1)

    def without_daemons(self) -> str:
        """The text without any daemon, which is no agent.toml by itself."""
        return self._without(set(range(len(self.config.daemons))))

    def strings(self, name: str) -> list[str]:
        """A list of strings in the section [agent]."""
        return [str(each) for each in tomllib.loads(self.text)["agent"].get(name, [])]

    def with_agent_setting(self, name: str, value: str) -> AgentToml:
        """With `name = value` (TOML) in the section [agent], in place of what it has."""
        return AgentToml(self.file, set_in_agent(self.text, name, value))

    def _without(self, numbers: set[int]) -> str:
        """The text without the sections of these daemons; comments before the next section belong to that."""
        kept: list[str] = []
        comments: list[str] = []
        number, skipping = -1, False
        for line in self.text.splitlines():
            if _HEADER.match(line):
                if skipping:
                    kept += comments
                number += bool(_DAEMON.match(line))
                skipping = bool(_DAEMON.match(line)) and number in numbers
                comments = []
            if not skipping:
                kept.append(line)
            elif _COMMENT.match(line):
                comments.append(line)
            else:
                comments = []
        return "\n".join(kept).rstrip("\n") + "\n"

    def _checked(self, text: str, daemons: int) -> AgentToml:
        changed = AgentToml(self.file, text)
        if len(changed.config.daemons) != daemons:
            raise CommandError(
                f"the sections of {self.file} cannot be told apart", "change it with an editor", Exit.USAGE
            )
        return changed


def list_of(texts: Iterable[str]) -> str:
    """A TOML array of strings."""
    return f"[{', '.join(map(quote, texts))}]"


def append_daemon(text: str, address: str, host_keys: Iterable[str]) -> str:
    """`text` with one more daemon."""
    section = f"\n[[daemon]]\naddress = {quote(address)}\nhost_keys = {list_of(host_keys)}\n"
    return text.rstrip("\n") + "\n" + section


def set_in_section(text: str, section: str, name: str, value: str) -> str:
    """`text` with `name = value` (TOML) in a section, in place of what it has; the section is appended if there is none."""
    lines = text.splitlines()
    header = re.compile(rf"^\s*\[\s*{re.escape(section)}\s*\]\s*(#.*)?$")
    start = next((at for at, line in enumerate(lines) if header.match(line)), None)
    if start is None:
        return text.rstrip("\n") + f"\n\n[{section}]\n{name} = {value}\n"
    at = start + 1
    while at < len(lines) and not _HEADER.match(lines[at]):
        if re.match(rf"^\s*{re.escape(name)}\s*=", lines[at]):
            lines[at : at + _length(lines, at)] = [f"{name} = {value}"]
            break
        at += 1
    else:
        lines.insert(start + 1, f"{name} = {value}")
    return "\n".join(lines) + "\n"


def set_in_agent(text: str, name: str, value: str) -> str:
    """As `set_in_section`, for the section [agent]."""
    return set_in_section(text, "agent", name, value)


def _length(lines: list[str], start: int) -> int:
    """How many lines the setting at `start` has: an array may go on."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end - start
    return 1
