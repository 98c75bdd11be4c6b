"""node.toml: read into frozen values. Unknown names are refused, and all faults are reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsmd.algorithms import KeyType
from hsmd.client.daemon_tables import absolute_path, daemons, login
from hsmd.client.endpoint import Endpoint
from hsmd.deployment import pair
from hsmd.deployment.servers import LONGEST_TIMEOUT_S, TIMEOUT_S, Server
from hsmd.deployment.version_directories import Access
from hsmd.errors import BadRequest, ConfigurationError
from hsmd.node.keys import AgentKeys, FileKeys, Keys, TokenKeys
from hsmd.node.probe import Probe, Speech, Whose
from hsmd.node.programs import PROGRAMS, Program
from hsmd.system import host_users
from hsmd.system.addresses import split_address
from hsmd.system.toml_table import TomlTable, parse_text, read_text

DEFAULT_SOCKET = "/run/hsmd/agent.sock"
DEFAULT_STATE = "/var/lib/hsmd-node"
KEY_TYPES = ("p-256", "p-384", "rsa-2048", "rsa-3072")
PROBE_S = 10
LONGEST_PROBE_S = 60
MAX_PROBES = 256
_OWNER_READS, _GROUP_READS = Access(0o600, 0o700), (0o640, 0o750)
KEEP = -1
"""For owner and group: that of the process."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """The settings of node.toml. `daemons` are tried in their order; `files` is the directory that `current` is made in."""

    client: str
    daemons: tuple[Endpoint, ...]
    state: Path
    authority: str
    keys: Keys
    program: Program
    files: Path
    access: Access
    server: Server
    """How the program is reloaded."""
    probes: tuple[Probe, ...]


def load(path: Path) -> NodeConfig:
    """The configuration in a file. Raises ConfigurationError that lists every fault in it."""
    return parse(read_text(path, "; make it: hsmd node init"), source=str(path))


def parse(text: str, *, source: str = "node.toml") -> NodeConfig:
    """The configuration in a TOML document. Raises ConfigurationError that lists every fault in it."""
    faults: list[str] = []
    config = _config(TomlTable(parse_text(text, source), "", faults, Path(source).parent))
    if faults:
        raise ConfigurationError(source, faults)
    return config


def _config(top: TomlTable) -> NodeConfig:
    node = top.table("node")
    who, state = login(node), absolute_path(node, "state", DEFAULT_STATE)
    node.end()
    certificate = top.table("certificate")
    authority = certificate.text("authority", None)
    try:
        pair.check_name(authority or "missing")
    except BadRequest:
        certificate.fault(
            "authority", f"{authority[:80]!r} is not a name: letters, digits, . _ -; at most 64"
        )
    keys = _keys(certificate)
    certificate.end()
    table = top.table("program")
    kind = table.choice("kind", "", tuple(PROGRAMS))
    program = PROGRAMS.get(kind, PROGRAMS["nginx"])
    files, access, server = _files(table), _access(table), _reload(table, program)
    table.end()
    probes = _probes(top, program)
    upstream = daemons(top, who)
    top.end()
    return NodeConfig(who.client, upstream, state, authority, keys, program, files, access, server, probes)


def _keys(table: TomlTable) -> Keys:
    """Where the private key is: the settings of one of the three places, and no others."""
    place = table.choice("key", "file", ("file", "token", "agent"))
    if place == "token":
        return TokenKeys(absolute_path(table, "token"), table.text("label", None))
    if place == "agent":
        return AgentKeys(absolute_path(table, "socket", DEFAULT_SOCKET), table.text("name", None))
    key_type = table.choice("key_type", "p-256", KEY_TYPES)
    return FileKeys(KeyType(key_type) if key_type in KEY_TYPES else KeyType.P256)


def _files(table: TomlTable) -> Path:
    files = absolute_path(table, "files")
    if ".." in files.parts or files.name == "":
        table.fault("files", "must name a directory, without ..")
    return files


def _access(table: TomlTable) -> Access:
    """Who reads the key: its owner, and a group if one is given."""
    owner, group = table.text("owner"), table.text("group")
    uid = host_users.uid_of(owner) if owner else KEEP
    gid = host_users.gid_of(group) if group else KEEP
    for name, text, number in (("owner", owner, uid), ("group", group, gid)):
        if number is None:
            table.fault(name, f"this host has no {'user' if name == 'owner' else name} {text[:64]!r}")
    file, directory = _GROUP_READS if group else (_OWNER_READS.file, _OWNER_READS.directory)
    given = None if not owner and not group else (KEEP if uid is None else uid, KEEP if gid is None else gid)
    return Access(file, directory, given)


def _reload(table: TomlTable, program: Program) -> Server:
    unit, command = table.text("unit", program.unit), tuple(table.strings("command", ()))
    if command and not command[0].startswith("/"):
        table.fault("command", "must begin with the absolute path of a program")
    if unit.startswith("-"):
        table.fault("unit", "must be the name of a systemd unit")
    timeout_s = table.number("timeout_s", TIMEOUT_S, 1, LONGEST_TIMEOUT_S)
    return Server(program.name, (), unit="" if command else unit, command=command, timeout_s=timeout_s)


def _probes(top: TomlTable, program: Program) -> tuple[Probe, ...]:
    """The [[probe]] tables; there may be none."""
    tables = top.tables("probe", may_be_missing=True)
    if len(tables) > MAX_PROBES:
        top.fault("probe", f"at most {MAX_PROBES} are possible")
    return tuple(found for table in tables[:MAX_PROBES] if (found := _probe(table, program)) is not None)


def _probe(table: TomlTable, program: Program) -> Probe | None:
    command = tuple(table.strings("command", ()))
    timeout_s = table.number("timeout_s", PROBE_S, 1, LONGEST_PROBE_S)
    if command:
        table.end()
        if not command[0].startswith("/"):
            table.fault("command", "must begin with the absolute path of a program")
        return Probe(Whose.COUNTERPART, command=command, timeout_s=timeout_s)
    address, name = table.text("connect", None), table.text("name")
    speaks = table.choice("speaks", program.speaks, tuple(each.value for each in Speech))
    default = Whose.OWN if program.server else Whose.COUNTERPART
    whose = table.choice("certificate", default.value, tuple(each.value for each in Whose))
    table.end()
    try:
        host, port = split_address(address, program.port)
    except ValueError as error:
        if address:
            table.fault("connect", f"{error}; an address looks like 192.0.2.1:443 or [2001:db8::1]:443")
        return None
    try:
        return Probe(Whose(whose), host, port, name or host, Speech(speaks), timeout_s=timeout_s)
    except (BadRequest, ValueError):
        return None  # noted before
