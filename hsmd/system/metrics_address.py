"""The address of the metrics endpoint, as daemon and agent read it from `[metrics]` of their configuration."""

from __future__ import annotations

from ipaddress import ip_address

from hsmd.system.addresses import ListenAddress, listen_address
from hsmd.system.toml_table import TomlTable


def read_metrics_address(table: TomlTable, default_port: int) -> tuple[ListenAddress | None, bool]:
    """(address, allow_network); no address without one. Anything but loopback is a fault unless the network is allowed."""
    text = table.text("address")
    allow_network = table.flag("allow_network", False)
    address = None
    try:
        address = listen_address(text, default_port) if text else None
    except ValueError as error:
        table.fault("address", str(error))
    if address is not None and not ip_address(address.host).is_loopback and not allow_network:
        table.fault(
            "address",
            f"{text} would show names of clients and keys to a network; use 127.0.0.1, or set allow_network = true",
        )
    return address, allow_network
