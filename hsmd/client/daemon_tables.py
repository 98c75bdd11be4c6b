"""What configuration files of programs that connect to daemons have in common: who they are there, and the [[daemon]] tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hsmd.client.endpoint import Endpoint, parse_address
from hsmd.client.statement_keys import parse_pins
from hsmd.errors import BadRequest, ConfigurationError, ProtocolError
from hsmd.system.toml_table import TomlTable
from hsmd.transparency.declaration import operator_verifier
from hsmd.transparency.note import Verifier


@dataclass(frozen=True, slots=True)
class Login:
    """Client name, private key file, and user certificate if there is one. `setting` is where the file has the name."""

    client: str
    identity: Path
    certificate: Path | None
    setting: str


def login(table: TomlTable) -> Login:
    """The settings `client`, `identity` and `certificate` of a table."""
    client, identity = table.text("client", None), absolute_path(table, "identity")
    certificate = absolute_path(table, "certificate", "")
    return Login(client, identity, certificate if certificate.name else None, table.where("client"))


def absolute_path(table: TomlTable, key: str, default: str | None = None) -> Path:
    """An absolute path; an optional one (with an empty default) may be empty."""
    text = table.text(key, default)
    if not text.startswith("/") and (text or default):
        table.fault(key, f"{text[:80]!r} must be an absolute path")
    return Path(text)


def operators(table: TomlTable) -> tuple[Verifier, ...]:
    """The setting `operator_keys`: Ed25519 lines of OpenSSH."""
    found = []
    for line in table.strings("operator_keys", ()):
        try:
            found.append(operator_verifier(line))
        except ProtocolError as error:
            table.fault("operator_keys", error.text)
    return tuple(found)


def statement_keys(table: TomlTable) -> tuple[Verifier, ...]:
    """The setting `statement_keys`: verifier keys of signed notes."""
    try:
        return parse_pins(table.strings("statement_keys", ()))
    except ProtocolError as error:
        table.fault("statement_keys", error.text)
        return ()


def daemons(top: TomlTable, who: Login) -> tuple[Endpoint, ...]:
    """The [[daemon]] tables, in the order in which they are tried."""
    found = [daemon for table in top.tables("daemon") if (daemon := _daemon(table, who)) is not None]
    addresses = [daemon.address for daemon in found]
    for address in {address for address in addresses if addresses.count(address) > 1}:
        top.fault("daemon", f"{address} is listed twice")
    return tuple(found)


def _daemon(table: TomlTable, who: Login) -> Endpoint | None:
    """The endpoint, None if its faults have been noted."""
    address = table.text("address", None)
    host_keys = table.strings("host_keys", ())
    table.end()
    if not address or not who.client:
        return None
    try:
        host, port = parse_address(address)
        return Endpoint(host, port, tuple(host_keys), who.client, who.identity, who.certificate)
    except BadRequest as error:
        table.fault("address", error.text)
    except ConfigurationError as error:
        for fault in error.faults:
            # Every daemon is given the same client name, which is a setting of another table.
            bad_name = f"{who.setting}: is not a client name (letters, digits, . _ -; at most 64)"
            noted = bad_name if fault.startswith("user:") else table.where(fault)
            if noted not in table.faults:
                table.faults.append(noted)
    return None
