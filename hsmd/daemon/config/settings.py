"""Settings: what a daemon is configured to do, as frozen values; `config.py` reads them from hsmd.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from hsmd.system.addresses import join_address

Network = IPv4Network | IPv6Network
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address the daemon listens on; a literal IP address, never a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_address(self.host, self.port)


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]: where front ends and operators connect, and the host key they pin.

    With `operator_addresses` operators and auditors are accepted there and nowhere else, front ends at `addresses` only.
    """

    addresses: tuple[ListenAddress, ...]
    host_key: Path
    host_certificate: Path | None
    allow_wildcard: bool
    operator_addresses: tuple[ListenAddress, ...] = ()
    client_key_rotation: bool = True


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """[[token]]: one PKCS#11 token. Chosen by label, serial or slot; the PIN is read by its workers only."""

    name: str
    module: Path
    label: str
    serial: str
    slot: int | None
    pin_file: Path | None
    pin_credential: str
    environment: Mapping[str, str]
    workers: int
    stall_ms: int
    sandbox: str
    network: bool
    lock_memory: str
    probe_s: int
    spare: bool
    recycle_after_operations: int
    recycle_after_s: int
    verify: str


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """[audit]: the directory of the log, when it is synced, signed and sealed, and how much room it needs.

    No key is used with less than `reserve_mib` free: outcomes and control operations still have to be recorded.
    """

    directory: Path
    sync: Literal["group", "always"]
    checkpoint_s: int
    segment_mib: int
    warn_free_mib: int
    reserve_mib: int


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """[limits]: what one peer, and all of them together, may take."""

    startups: int
    login_s: int
    auth_tries: int
    connections: int
    channels_per_connection: int
    open_requests: int
    client_rate: int
    client_open: int
    queue: int
    drain_s: int
    penalty_exempt: tuple[Network, ...] = tuple(map(ip_network, LOOPBACK))
    """Networks that are never refused for failed logins: whoever relays others' connections."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: where Prometheus may ask, None for nowhere, and how many series of operations there are at most."""

    address: ListenAddress | None
    allow_network: bool
    series: int


@dataclass(frozen=True, slots=True)
class UsersConfig:
    """[users]: whom front process and workers run as when the launcher may change users; empty: no change."""

    front: str
    workers: str


@dataclass(frozen=True, slots=True)
class Config:
    """The whole of hsmd.toml. `name` is what this daemon calls itself in logs and status."""

    path: Path
    name: str
    log_level: str
    listen: ListenConfig
    store_url: str = field(repr=False)
    store_fresh_s: int
    tokens: tuple[TokenConfig, ...]
    audit: AuditConfig
    limits: LimitsConfig
    users: UsersConfig
    metrics: MetricsConfig
