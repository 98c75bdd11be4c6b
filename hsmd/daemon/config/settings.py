"""The settings of a daemon as frozen values; `reader` reads them from hsmd.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Literal

from hsmd.pkcs11.settings import TokenSettings
from hsmd.system.addresses import ListenAddress

Network = IPv4Network | IPv6Network
LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """[listen]: where front ends and operators connect, and the host key that they pin.

    If `operator_addresses` are given, operators and auditors are accepted only there and front ends only at `addresses`.
    """

    addresses: tuple[ListenAddress, ...]
    host_key: Path
    host_certificate: Path | None
    allow_wildcard: bool
    operator_addresses: tuple[ListenAddress, ...] = ()
    client_key_rotation: bool = True


@dataclass(frozen=True, slots=True)
class TokenConfig:
    """[[token]]: one PKCS#11 token and its workers, which alone read the PIN. `settings` say how they open it."""

    settings: TokenSettings
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

    @property
    def name(self) -> str:
        """The token's name in commands, messages and the store."""
        return self.settings.name


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """[audit]: the directory of the log, when it is synced, signed and sealed, and how much free space it needs.

    No key is used with less than `reserve_mib` free, so that outcomes and control operations can still be recorded.
    """

    directory: Path
    sync: Literal["group", "always"]
    checkpoint_s: int
    segment_mib: int
    warn_free_mib: int
    reserve_mib: int


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """[limits]: limits for one peer and for all peers together."""

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
    """Networks that are never refused for failed logins, such as relays of other clients' connections."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """[metrics]: address of the Prometheus endpoint, None for no endpoint, and the most series of operations."""

    address: ListenAddress | None
    allow_network: bool
    series: int


@dataclass(frozen=True, slots=True)
class CertificatesConfig:
    """[certificates]: how many days before its end a certificate is reported as ending soon."""

    warn_days: int


@dataclass(frozen=True, slots=True)
class UsersConfig:
    """[users]: users of the front process and the workers if the launcher may change users; empty for no change."""

    front: str
    workers: str


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of hsmd.toml. `name` is the daemon's name in logs, status and checkpoints."""

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
    certificates: CertificatesConfig
