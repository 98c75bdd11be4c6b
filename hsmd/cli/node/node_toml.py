"""The text of a new node.toml, with a comment for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hsmd.cli.base.agent_toml import Pinned
from hsmd.cli.base.toml import quote


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new node looks after. `probes` are pairs of address and name; without a name that of the address is verified."""

    authority: str
    program: str
    state: Path
    files: Path
    unit: str = ""
    command: tuple[str, ...] = ()
    owner: str = ""
    group: str = ""
    probes: Sequence[tuple[str, str]] = ()
    token: str = ""
    """File with the settings of the token that has the key `label`."""
    label: str = ""
    served: str = ""
    """Name of the key behind the agent of this host."""


def render(wanted: Wanted, daemon: Pinned) -> str:
    """The whole file."""
    return f"""\
# Configuration of the hsmd node of this host. Paths are absolute. SIGHUP reloads it.

[node]
# Client name of this node at the daemons, and its private key.
client = {quote(daemon.client)}
identity = {quote(str(daemon.identity))}
# What the program has loaded, and how the last pass came out.
state = {quote(str(wanted.state))}

[certificate]
# The authority that certifies; an operator says which names it gets: hsmd ca allow
authority = {quote(wanted.authority)}
{_key(wanted)}

[program]
# nginx, haproxy, apache, postgresql, curl or python
kind = {quote(wanted.program)}
# The program loads its files from the directory `current` in this one.
files = {quote(str(wanted.files))}
# User and group that the files belong to; with a group, its members read the key.
{_setting("owner", wanted.owner)}
{_setting("group", wanted.group)}
# How the program is reloaded: a unit of systemd, or a command with its arguments; by default the unit of the program.
{_setting("unit", wanted.unit)}
{_command(wanted.command)}

# Handshakes that are made behind each reload and at each pass. `certificate` is "own" if this node's certificate is to be shown
# (the default for servers), or "counterpart" (the default for clients). Add one for each door of a server, and for each server
# of a client; or a command that makes one: command = ["/usr/bin/curl", ...]
{_probes(wanted.probes)}
# Daemons are tried in this order; add a section for each daemon that shares the store.
[[daemon]]
address = {quote(daemon.address)}
# Accepted host keys, or host CAs with the prefix `cert-authority`.
host_keys = [{", ".join(quote(line) for line in daemon.host_keys)}]
"""


def _key(wanted: Wanted) -> str:
    if wanted.token:
        return (
            "# The key is in this token, with this label; the program finds it there by its own configuration.\n"
            f'key = "token"\ntoken = {quote(wanted.token)}\nlabel = {quote(wanted.label)}'
        )
    if wanted.served:
        return (
            "# The key is behind the agent of this host; whoever certifies it for the daemon renews it: hsmd ca issue\n"
            f'key = "agent"\nname = {quote(wanted.served)}\n#socket = "/run/hsmd/agent.sock"'
        )
    return (
        "# p-256, p-384, rsa-2048 or rsa-3072, from the next new key on: hsmd node renew --new-key\n"
        'key_type = "p-256"'
    )


def _setting(name: str, value: str) -> str:
    return f"{name} = {quote(value)}" if value else f'#{name} = ""'


def _command(words: Sequence[str]) -> str:
    return (
        f"command = [{', '.join(quote(word) for word in words)}]"
        if words
        else '#command = ["/usr/sbin/nginx", "-s", "reload"]'
    )


def _probes(probes: Sequence[tuple[str, str]]) -> str:
    if not probes:
        return '#[[probe]]\n#connect = "127.0.0.1:443"\n#name = "www.example.com"\n'
    return "\n".join(
        f"[[probe]]\nconnect = {quote(address)}\n{_setting('name', name)}\n" for address, name in probes
    )
