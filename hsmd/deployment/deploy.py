"""One pass of root's side: what the agent wrote is checked and installed where servers read it, and each server reloaded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hsmd.deployment import exports, installed, reloads, servers
from hsmd.deployment.agent_directory import AgentDirectory
from hsmd.deployment.exports import Export
from hsmd.deployment.installed import Certificate, Installed
from hsmd.deployment.servers import Server
from hsmd.deployment.versions import WRITERS
from hsmd.errors import BadRequest, ConfigurationError
from hsmd.system import atomic_file


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is: the agent's state, root's list of servers, the default directory of exports, and the report."""

    state: Path
    servers: Path
    keys: Path
    report: Path


@dataclass(slots=True)
class Deployed:
    """What a pass did. `installed` and `refused` by the names of keys, `reloaded` and `not_reloaded` by those of servers.

    `absent` are exported keys for which the agent has nothing; `faults` are parts of the list that were left out.
    """

    installed: list[str] = field(default_factory=list)
    unchanged: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    reloaded: list[str] = field(default_factory=list)
    not_reloaded: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def deploy(
    places: Places,
    now: datetime,
    *,
    reload: Callable[[Server], str] = reloads.reload,
    unlisted: Callable[[Sequence[Server], Path], list[Server]] = reloads.unlisted,
) -> Deployed:
    """Make one pass. Raises ConfigurationError if the list cannot be trusted, OSError if there is no directory of the agent."""
    done = Deployed()
    listed, faults = servers.load(places.servers, places.keys)
    done.faults += [error.text for error in faults]
    listed += unlisted(listed, places.keys)
    found = _exports(listed, places.keys, done)
    with AgentDirectory(places.state) as agent:
        # First: what is switched from here on is announced again.
        agent.take_notice()
        renewals = [renewal for export in found if (renewal := _renewal(export, agent, now, done))]
    before = installed.read(places.report)
    concerned = _concerned(listed, renewals, before)
    if renewals:
        # Before any file changes: a crash from here on must not leave a server with what it loaded before.
        installed.write(places.report, Installed(before.certificates, [each.name for each in concerned]))
    found = _install(found, renewals, done)
    for server in concerned:
        if fault := reload(server):
            done.not_reloaded[server.name] = fault
        else:
            done.reloaded.append(server.name)
    installed.write(places.report, _report(found, listed, before, done))
    return done


@dataclass(frozen=True, slots=True)
class _Renewal:
    """An export, and the checked files that replace its own."""

    export: Export
    chain: bytes
    reference: bytes


def _exports(listed: Sequence[Server], default: Path, done: Deployed) -> list[Export]:
    directories = {default: None} | {each: None for server in listed for each in server.directories}
    found: list[Export] = []
    for directory in directories:
        try:
            found += exports.find(directory)
        except FileNotFoundError:
            if directory != default:
                done.faults.append(f"{directory}: there is no such directory")
        except OSError as error:
            done.faults.append(f"{directory}: {error.strerror}")
        except ConfigurationError as error:
            done.faults.append(error.text)
    return found


def _renewal(export: Export, agent: AgentDirectory, now: datetime, done: Deployed) -> _Renewal | None:
    """What replaces the files of an export; None if they stay as they are."""
    try:
        written = agent.read(export.key)
        if written is None:
            done.absent.append(export.key)
            return None
        if export.holds(written.chain, written.reference):
            done.unchanged += 1
            return None
        pair = written.parse()
        renewal = _Renewal(export, pair.chain_pem.encode(), pair.reference_pem.encode())
        if export.holds(renewal.chain, renewal.reference):
            done.unchanged += 1
            return None
        pair.check_dates(now)
    except BadRequest as error:
        done.refused[export.key] = error.text
        return None
    return renewal


def _install(found: Sequence[Export], renewals: Sequence[_Renewal], done: Deployed) -> list[Export]:
    """Replace the files; return all exports as they are then."""
    wanted = {renewal.export.reference: renewal for renewal in renewals}

    def install(export: Export) -> Export:
        renewal = wanted.get(export.reference)
        if renewal is None:
            return export
        try:
            export = export.install(renewal.chain, renewal.reference)
        except (OSError, ConfigurationError) as error:
            done.refused[export.key] = f"cannot be installed: {error}"
        else:
            done.installed.append(export.key)
        return export

    with ThreadPoolExecutor(WRITERS) as writers:
        now = list(writers.map(install, found))
    for directory in {renewal.export.directory for renewal in renewals}:
        atomic_file.sync_directory(directory)
    done.installed.sort()
    return now


def _concerned(listed: Sequence[Server], renewals: Sequence[_Renewal], before: Installed) -> list[Server]:
    """The servers that have to be reloaded, each once."""
    return [
        server
        for server in listed
        if server.name in before.pending
        or any(server.uses(renewal.export.key, renewal.export.directory) for renewal in renewals)
    ]


def _report(
    found: Sequence[Export], listed: Sequence[Server], before: Installed, done: Deployed
) -> Installed:
    """What is served: of a key whose server could not be reloaded, what it served before."""
    old = {each.key: each.leaf for each in before.certificates}
    served: dict[str, str] = {}
    waiting = [server for server in listed if server.name in done.not_reloaded]
    for export in found:
        leaf = export.leaf_digest
        if any(server.uses(export.key, export.directory) for server in waiting):
            leaf = old.get(export.key, "")
        # A key that is installed in several places is served anew once it is in all of them.
        if leaf and (export.key not in served or leaf == old.get(export.key)):
            served[export.key] = leaf
    certificates = [Certificate(key, leaf) for key, leaf in sorted(served.items())]
    return Installed(certificates, sorted(done.not_reloaded))
