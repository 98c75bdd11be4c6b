"""Reads hsmd.toml into settings.

Unknown keys are refused. All faults are reported together, each with its key, so that a reload either applies the whole file
or changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

from msgspec import structs

from hsmd.daemon.config.settings import (
    LOOPBACK,
    AuditConfig,
    CertificatesConfig,
    Config,
    LimitsConfig,
    ListenConfig,
    MetricsConfig,
    Network,
    TokenConfig,
    UsersConfig,
)
from hsmd.errors import ConfigurationError
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.settings_file import read_token_selection
from hsmd.system.addresses import ListenAddress, listen_address
from hsmd.system.metrics_address import read_metrics_address
from hsmd.system.toml_table import TomlTable, parse_text, read_text

METRICS_PORT = 9444
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)


def load(path: Path) -> Config:
    """The configuration in `path`. Raises ConfigurationError with all faults.

    Relative paths are relative to the file's directory.
    """
    return parse(read_text(path, missing_hint="; create it with `hsmd init`"), path)


def parse(text: str, path: Path) -> Config:
    """The configuration in `text`, which is the content of `path`. Raises ConfigurationError with all faults."""
    faults: list[str] = []
    config = _config(TomlTable(parse_text(text, str(path)), "", faults, path.parent), path)
    if faults:
        raise ConfigurationError(str(path), faults)
    return config


def _config(top: TomlTable, path: Path) -> Config:
    config = Config(
        path=path,
        name=_name(top),
        log_level=top.choice("log_level", "info", ("debug", "info", "warning", "error")),
        listen=_listen(top.table("listen")),
        store_url=_store_url(store := top.table("store"), path.parent),
        store_fresh_s=_store_fresh_s(store),
        tokens=_tokens(top),
        audit=_audit(top.table("audit")),
        limits=_limits(top.table("limits")),
        users=_users(top.table("users")),
        metrics=_metrics(top.table("metrics")),
        certificates=_certificates(top.table("certificates")),
    )
    top.end()
    return config


def _name(top: TomlTable) -> str:
    name = top.text("name", "hsmd")
    if not NAME.fullmatch(name):
        top.fault(
            "name",
            "must be 1 to 64 letters, digits, dots, hyphens or underscores: it is part of a signer's name",
        )
    return name


def _listen(table: TomlTable) -> ListenConfig:
    allow_wildcard = table.flag("allow_wildcard", False)
    addresses = _addresses(table, "addresses", table.strings("addresses"), allow_wildcard)
    for_operators = _addresses(
        table, "operator_addresses", table.strings("operator_addresses", ()), allow_wildcard
    )
    for address in for_operators:
        if address in addresses:
            table.fault(
                "operator_addresses", f"{address} is also in addresses; it can be in one of them only"
            )
    config = ListenConfig(
        addresses=tuple(addresses),
        host_key=table.file("host_key", None),
        host_certificate=table.optional_file("host_certificate"),
        allow_wildcard=allow_wildcard,
        operator_addresses=tuple(for_operators),
        client_key_rotation=table.flag("client_key_rotation", True),
    )
    table.end()
    return config


def _addresses(
    table: TomlTable, name: str, texts: Iterable[str], allow_wildcard: bool
) -> list[ListenAddress]:
    addresses: list[ListenAddress] = []
    for text in texts:
        try:
            address = listen_address(text)
        except ValueError as error:
            table.fault(name, str(error))
            continue
        if ip_address(address.host).is_unspecified and not allow_wildcard:
            table.fault(
                name,
                f"{text} would listen on every network; name the dedicated network's address, or set allow_wildcard = true",
            )
        if address in addresses:
            table.fault(name, f"{text} is given twice; name each address once")
        addresses.append(address)
    return addresses


def _store_url(table: TomlTable, base: Path) -> str:
    url = table.text("url", None)
    if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
        return f"sqlite:///{(base / url.removeprefix('sqlite:///')).resolve()}"
    if url and not url.startswith(("sqlite:////", "postgresql+psycopg://")):
        table.fault("url", "must begin with sqlite:/// or postgresql+psycopg://")
    return url


def _store_fresh_s(table: TomlTable) -> int:
    """How long grants remain valid while the store cannot be read."""
    fresh_s = table.number("fresh_s", 3_600, 10, 604_800)
    table.end()
    return fresh_s


def _tokens(top: TomlTable) -> tuple[TokenConfig, ...]:
    tokens = tuple(_token(table) for table in top.tables("token"))
    names = [token.name for token in tokens]
    for name in sorted({name for name in names if names.count(name) > 1}):
        top.fault("token", f"two tokens are named {name!r}; give each a different name")
    return tokens


def _token(table: TomlTable) -> TokenConfig:
    token = TokenConfig(
        settings=_token_settings(table),
        environment=table.string_table("environment"),
        workers=table.number("workers", 1, 1, 64),
        stall_ms=table.number("stall_ms", 2_000, 50, 600_000),
        sandbox=table.choice("sandbox", "on", ("on", "off")),
        network=table.flag("network", False),
        lock_memory=table.choice("lock_memory", "auto", ("auto", "always", "never")),
        probe_s=table.number("probe_s", 20, 1, 3_600),
        spare=table.flag("spare", True),
        recycle_after_operations=table.number("recycle_after_operations", 5_000_000, 0, 2**53),
        recycle_after_s=table.number("recycle_after_s", 86_400, 0, 31_536_000),
        verify=table.choice("verify", "rsa", ("rsa", "all")),
    )
    table.end()
    return token


def _token_settings(table: TomlTable) -> TokenSettings:
    settings = structs.replace(
        read_token_selection(table),
        name=table.text("name", None),
        pin_credential=table.text("pin_credential"),
    )
    if bool(settings.pin_file) == bool(settings.pin_credential):
        table.fault("pin_file", "name exactly one of pin_file and pin_credential")
    return settings


def _audit(table: TomlTable) -> AuditConfig:
    directory = table.file("directory", None)
    always = table.choice("sync", "group", ("group", "always")) == "always"
    config = AuditConfig(
        directory,
        "always" if always else "group",
        checkpoint_s=table.number("checkpoint_s", 5, 1, 3600),
        segment_mib=table.number("segment_mib", 256, 1, 65_536),
        warn_free_mib=table.number("warn_free_mib", 512, 0, 1 << 30),
        reserve_mib=table.number("reserve_mib", 16, 0, 1 << 30),
    )
    if config.warn_free_mib < config.reserve_mib:
        table.fault("warn_free_mib", "is below reserve_mib, so the warning would come too late")
    table.end()
    return config


def _limits(table: TomlTable) -> LimitsConfig:
    config = LimitsConfig(
        startups=table.number("startups", 100, 1, 10_000),
        login_s=table.number("login_s", 10, 1, 120),
        auth_tries=table.number("auth_tries", 6, 1, 100),
        connections=table.number("connections", 1_000, 1, 100_000),
        channels_per_connection=table.number("channels_per_connection", 4, 1, 64),
        open_requests=table.number("open_requests", 512, 1, 65_536),
        client_rate=table.number("client_rate", 20_000, 1, 1_000_000),
        client_open=table.number("client_open", 1_024, 1, 65_536),
        queue=table.number("queue", 4_096, 1, 1_000_000),
        drain_s=table.number("drain_s", 10, 0, 600),
        penalty_exempt=_networks(table, "penalty_exempt", LOOPBACK),
    )
    table.end()
    return config


def _networks(table: TomlTable, key: str, default: tuple[str, ...]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for text in table.strings(key, default):
        try:
            networks.append(ip_network(text))
        except ValueError:
            table.fault(key, f"{text!r} must be a network like 192.0.2.0/24 or 2001:db8::/64, or an address")
    return tuple(networks)


def _metrics(table: TomlTable) -> MetricsConfig:
    address, allow_network = read_metrics_address(table, METRICS_PORT)
    config = MetricsConfig(address, allow_network, table.number("series", 1_000, 10, 100_000))
    table.end()
    return config


def _certificates(table: TomlTable) -> CertificatesConfig:
    config = CertificatesConfig(table.number("warn_days", 14, 0, 365))
    table.end()
    return config


def _users(table: TomlTable) -> UsersConfig:
    config = UsersConfig(table.text("front"), table.text("workers"))
    table.end()
    return config
