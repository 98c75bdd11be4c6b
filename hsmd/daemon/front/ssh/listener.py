"""The SSH listener: accepts connections on the configured addresses, with public keys and user certificates only."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from hsmd import observe
from hsmd.daemon.config.settings import LimitsConfig, ListenConfig
from hsmd.daemon.front.access.identification import Identities
from hsmd.daemon.front.ssh.admission import Admission
from hsmd.daemon.front.ssh.bound_addresses import BoundAddresses
from hsmd.daemon.front.ssh.channel import WINDOW_BYTES
from hsmd.daemon.front.ssh.connection import MakeSession, SshConnection
from hsmd.daemon.front.ssh.credentials import SIGNATURE_ALGORITHMS
from hsmd.daemon.front.ssh.enrolment import Enrolments
from hsmd.errors import ConfigurationError
from hsmd.protocol.roles import AT_OPERATOR_ADDRESSES, Role
from hsmd.system.addresses import ListenAddress
from hsmd.system.input_files import read_file
from hsmd.system.intake import Intakes
from hsmd.system.ssh_library import asyncssh
from hsmd.system.ssh_profile import ALGORITHMS, REKEY_SECONDS, need_no_user_entry

HOST_KEY_ALGORITHM = "ssh-ed25519"
MAX_KEY_BYTES = 65_536
BACKLOG = 1_024
"""Connections that the kernel accepts for the daemon while it is busy; beyond that a peer tries again after a second."""
GONE_AFTER_S = 30
"""Time after which the kernel drops a peer whose host or link has gone, with this connection's share of the limits."""
PROBE_AFTER_S, PROBE_INTERVAL_S, PROBES = 15, 5, 3
OTHER_FILES = 256
"""Open files besides connections: log, store, workers, and connections that are closing."""

log = observe.logger()


class SshListener:
    """Accepts SSH connections, and closes those that are no longer permitted."""

    def __init__(
        self,
        *,
        identities: Callable[[], Identities],
        admission: Admission,
        make_session: MakeSession,
        intakes: Intakes,
        enrolments: Enrolments | None = None,
        bound: BoundAddresses | None = None,
    ) -> None:
        """`bound` is kept up to date."""
        self._bound = bound or BoundAddresses()
        self._identities = identities
        self._admission = admission
        self._make_session = make_session
        self._intakes = intakes
        self._enrolments = enrolments
        self._acceptors: dict[ListenAddress, asyncssh.SSHAcceptor] = {}
        self._ports: dict[ListenAddress, int] = {}
        self._connections: set[SshConnection] = set()
        self._reported = 0

    async def apply(self, config: ListenConfig, limits: LimitsConfig) -> None:
        """Listen as `config` says. It applies to new connections; existing ones are kept.

        Raises ConfigurationError, before anything has changed, if the host key cannot be used, an address cannot be bound, or the
        system allows fewer open files than there may be connections.
        """
        allow_files(limits)
        key, certificate = read_host_key(config)
        wanted = {
            address: self._options(key, certificate, limits, roles)
            for address, roles in _roles(config).items()
        }
        opened = await self._open({each: wanted[each] for each in wanted if each not in self._acceptors})
        for address in [address for address in self._acceptors if address not in wanted]:
            self._acceptors.pop(address).close()
        for address, acceptor in self._acceptors.items():
            acceptor.update(**wanted[address])
        self._acceptors |= opened
        self._ports |= {address: acceptor.get_port() for address, acceptor in opened.items()}
        self._publish(config, key, certificate)

    def _publish(self, config: ListenConfig, key: Any, certificate: Any) -> None:
        bound = {address: ListenAddress(address.host, self._ports[address]) for address in self._acceptors}
        self._bound.all = list(bound.values())
        self._bound.for_operators = [bound[each] for each in config.operator_addresses] or self._bound.all
        self._bound.host_key_line = _line(key)
        ca = None if certificate is None else f"cert-authority {_line(certificate.signing_key)}"
        self._bound.pins = [ca or self._bound.host_key_line]

    def stop_accepting(self) -> None:
        """Close the listening sockets, and keep the connections."""
        for acceptor in self._acceptors.values():
            acceptor.close()

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._connections):
            connection.disconnect("the daemon stops")

    def recheck(self) -> None:
        """Close the connections of clients that the store no longer knows by their credential."""
        for connection in list(self._connections):
            connection.recheck()

    def check(self) -> None:
        """Close connections whose certificate has ended or whose peer does not read; call it about every second."""
        now = time.monotonic()
        refused = self._admission.refused - self._reported
        if refused:  # one line for all, so that unauthenticated peers cannot fill the disk
            self._reported += refused
            log.warning("connection.turned_away", count=refused)
        for connection in list(self._connections):
            try:
                connection.check(now)
            except Exception as error:  # what is wrong with one connection must not end those of all others
                log.error("connection.fault", address=connection.peer, exc_info=error)
                connection.drop("it cannot be checked")

    async def _open(self, wanted: dict[ListenAddress, dict[str, Any]]) -> dict[ListenAddress, Any]:
        """Listen on all of these addresses, or on none of them if one cannot be bound."""
        need_no_user_entry()
        opened: dict[ListenAddress, Any] = {}
        for address, options in wanted.items():
            try:
                opened[address] = acceptor = await asyncssh.listen(
                    address.host, address.port, reuse_address=True, backlog=BACKLOG, **options
                )
                for each in acceptor.sockets:
                    _watch_peers(each)
            except OSError as error:
                for acceptor in opened.values():
                    acceptor.close()
                fault = f"listen.addresses: cannot listen on {address}: {error.strerror or error}"
                raise ConfigurationError("hsmd.toml", [fault]) from None
        return opened

    def _options(
        self, key: Any, certificate: Any, limits: LimitsConfig, roles: frozenset[Role] = frozenset(Role)
    ) -> dict[str, Any]:
        """Options for asyncssh; most disable what it would offer or read from the environment by default."""
        return {
            "server_factory": lambda: SshConnection(
                self._identities,
                self._admission,
                self._make_session,
                self._connections,
                self._intakes,
                self._enrolments,
                roles,
            ),
            "server_host_keys": [key if certificate is None else (key, certificate)],
            "server_version": "hsmd",
            "config": [],
            **ALGORITHMS,
            "signature_algs": SIGNATURE_ALGORITHMS,
            # Only for enrolment tokens: see `SshConnection.password_auth_supported`.
            "password_auth": self._enrolments is not None,
            "kbdint_auth": False,
            "host_based_auth": False,
            "gss_host": None,
            "gss_kex": False,
            "gss_auth": False,
            "allow_pty": False,
            "agent_forwarding": False,
            "x11_forwarding": False,
            "allow_scp": False,
            "line_editor": False,  # it would wrap every channel in an object of its own
            "encoding": None,
            "login_timeout": limits.login_s,
            "keepalive_interval": 0,  # see `_watch_peers`
            "rekey_seconds": REKEY_SECONDS,
            "window": WINDOW_BYTES,
        }


def _watch_peers(listening: Any) -> None:
    """Let the kernel notice peers that have gone without a word: the sockets that it accepts inherit these options (tcp(7)).

    Keep-alives of SSH would wake this process, and the peer's, for each of thousands of idle connections.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, PROBE_AFTER_S),
        (socket.TCP_KEEPINTVL, PROBE_INTERVAL_S),
        (socket.TCP_KEEPCNT, PROBES),
        (socket.TCP_USER_TIMEOUT, GONE_AFTER_S * 1000),
    ):
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def _roles(config: ListenConfig) -> dict[ListenAddress, frozenset[Role]]:
    """The roles that clients have at each address."""
    if not config.operator_addresses:
        return dict.fromkeys(config.addresses, frozenset(Role))
    return dict.fromkeys(config.addresses, frozenset(Role) - AT_OPERATOR_ADDRESSES) | dict.fromkeys(
        config.operator_addresses, AT_OPERATOR_ADDRESSES
    )


def allow_files(limits: LimitsConfig) -> None:
    """Allow the process as many open files as the limits require (setrlimit(2), RLIMIT_NOFILE)."""
    needed = limits.connections + limits.startups + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fault = (
            f"limits.connections: {limits.connections} connections need {needed} open files and the system allows {hard}; "
            "raise LimitNOFILE= in the unit, or lower the limit"
        )
        raise ConfigurationError("hsmd.toml", [fault])
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _line(key: Any) -> str:
    """The public key as an OpenSSH line without a comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def read_host_key(config: ListenConfig) -> tuple[Any, Any]:
    """The host key, and its certificate or None. Raises ConfigurationError if clients could not use them."""
    where, path = "listen.host_key", config.host_key
    try:
        key = asyncssh.import_private_key(read_file(path, MAX_KEY_BYTES))
        if key.get_algorithm() != HOST_KEY_ALGORITHM:
            raise ValueError("it is not an Ed25519 key")
        certificate = None
        if config.host_certificate is not None:
            where, path = "listen.host_certificate", config.host_certificate
            certificate = asyncssh.import_certificate(read_file(path, MAX_KEY_BYTES))
            _check_host_certificate(key, certificate)
    except OSError as error:
        raise ConfigurationError("hsmd.toml", [f"{where}: {path} cannot be read: {error.strerror}"]) from None
    except ValueError as error:  # asyncssh's import errors are among them
        fault = f"{where}: {path} cannot be used: {error}; make one with ssh-keygen -t ed25519 or `hsmd init`"
        raise ConfigurationError("hsmd.toml", [fault]) from None
    return key, certificate


def _check_host_certificate(key: Any, certificate: Any) -> None:
    """Raise ValueError for a certificate that every client would refuse."""
    if certificate.is_x509 or certificate.key.public_data != key.public_data:
        raise ValueError("it does not certify the host key")
    if not certificate.principals:
        raise ValueError("it names no principal; issue it with ssh-keygen -h -n ADDRESS")
    certificate.validate(asyncssh.public_key.CERT_TYPE_HOST, certificate.principals[0])
