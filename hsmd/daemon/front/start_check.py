"""Checks whether the front process could start: `python -m hsmd.daemon.front.start_check --config FILE`.

It writes the results to standard output as JSON and changes nothing. An address that a running daemon of hsmd listens on is
as it should be: it may be the daemon of this configuration.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from hsmd.daemon.config import reader
from hsmd.daemon.config.settings import Config
from hsmd.daemon.front.ssh.listener import allow_files, read_host_key
from hsmd.daemon.ipc.start_checks import CheckResult, bad, encode, good
from hsmd.daemon.store import Store
from hsmd.errors import ConfigurationError, HsmdError
from hsmd.system.addresses import ListenAddress

_BANNER = b"SSH-2.0-hsmd"
_ANSWER_S = 2.0


def check(config: Config) -> list[CheckResult]:
    """All results."""
    addresses = (*config.listen.addresses, *config.listen.operator_addresses)
    return [
        _host_key(config),
        *(_address(f"address {address}", address, ours=_is_hsmd) for address in addresses),
        *_metrics(config),
        _store(config),
        *_audit(config),
        *_open_files(config),
    ]


def _host_key(config: Config) -> CheckResult:
    try:
        read_host_key(config.listen)
    except ConfigurationError as error:
        text, _, fix = "; ".join(error.faults).partition("; ")
        return bad("host key", text, fix or _OWNER)
    return good("host key", str(config.listen.host_key))


_OWNER = "the front process's user must be able to read it (docs/reference.md, users and files)"


def _address(subject: str, address: ListenAddress, ours: Callable[[ListenAddress], bool]) -> CheckResult:
    family = socket.AF_INET6 if ip_address(address.host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address.host, address.port))
            tried.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and ours(address):
                return good(subject, "in use by a running hsmd daemon")
            return bad(
                subject, f"cannot listen: {error.strerror}", _ADDRESS_FIXES.get(error.errno or 0, _PORT)
            )
    return good(subject, "belongs to this host and is free")


_PORT = "choose another address or port"
_ADDRESS_FIXES = {
    errno.EADDRNOTAVAIL: "this host has no such address now: correct it, or configure the network first",
    errno.EADDRINUSE: "another program listens there; `ss -ltnp` names it",
    errno.EACCES: "ports below 1024 are for root: choose a higher one",
}


def _is_hsmd(address: ListenAddress) -> bool:
    """Whether an SSH server of hsmd answers at the address."""
    try:
        with socket.create_connection((address.host, address.port), _ANSWER_S) as peer:
            peer.settimeout(_ANSWER_S)
            return peer.recv(64).startswith(_BANNER)
    except OSError:
        return False


def _metrics(config: Config) -> Iterator[CheckResult]:
    if config.metrics.address is not None:
        yield _address(f"metrics {config.metrics.address}", config.metrics.address, ours=_answers_metrics)


def _answers_metrics(address: ListenAddress) -> bool:
    try:
        with socket.create_connection((address.host, address.port), _ANSWER_S) as peer:
            peer.settimeout(_ANSWER_S)
            peer.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            received = b""
            while b"hsmd_" not in received and (piece := peer.recv(65_536)):
                received += piece
            return b"hsmd_" in received
    except OSError:
        return False


def _store(config: Config) -> CheckResult:
    try:
        if fault := _sqlite_fault(config.store_url):
            return fault
        store = Store(config.store_url)
        try:
            upgrade = store.needs_upgrade()
        finally:
            store.close()
    except HsmdError as error:
        text, _, fix = (f"{error.text} ({error.detail})" if error.detail else error.text).partition("; ")
        return bad("store", text, fix or "check the database, store.url and the permissions of its files")
    return good("store", "can be used" + ("; it will be upgraded at the start" if upgrade else ""))


def _sqlite_fault(url: str) -> CheckResult | None:
    if not url.startswith("sqlite:///"):
        return None
    path = Path(url.removeprefix("sqlite:///"))
    if fault := _directory_fault(path.parent):
        return bad("store", fault, _OWN_DIRECTORY)
    if not path.exists():
        return good("store", f"{path} does not exist yet; it will be created, without any client")
    if not os.access(path, os.R_OK | os.W_OK):
        return bad("store", f"{path} cannot be written", _OWN_DIRECTORY)
    return None


_OWN_DIRECTORY = "make the front process's user its owner (docs/reference.md, users and files)"


def _audit(config: Config) -> Iterator[CheckResult]:
    directory = config.audit.directory
    place = directory if directory.exists() else directory.parent
    if fault := _directory_fault(place):
        yield bad("audit log", fault, _OWN_DIRECTORY)
        return
    found = os.statvfs(place)
    free_mib = found.f_bavail * found.f_frsize >> 20
    if free_mib < config.audit.reserve_mib:
        yield bad(
            "audit log",
            f"{free_mib} MiB are free in {place}, and no key is used with less than {config.audit.reserve_mib}",
            "free disk space, or archive old segments: hsmd audit archive",
        )
    else:
        yield good("audit log", f"{directory}, {free_mib:,} MiB free")


def _open_files(config: Config) -> Iterator[CheckResult]:
    try:
        allow_files(config.limits)
    except ConfigurationError as error:
        text, _, fix = error.faults[0].partition("; ")
        yield bad("open files", text, fix)


def _directory_fault(path: Path) -> str:
    try:
        if not path.exists():
            return f"the directory {path} does not exist"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return "" if os.access(path, os.W_OK | os.X_OK) else f"the directory {path} cannot be written"


def main() -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="hsmd.daemon.front.start_check")
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    try:
        results = check(reader.load(options.config))
    except ConfigurationError as error:
        results = [bad("configuration", fault, "correct the file") for fault in error.faults]
    sys.stdout.buffer.write(encode(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
