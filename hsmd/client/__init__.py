"""The client library: connections to a daemon or an agent, and private-key objects.

`Connection` is for asyncio programs, `Client` for all others; both take an `Endpoint` (a daemon and its pinned host keys) or
an `AgentEndpoint` (the Unix socket of the agent on this host).
"""

from hsmd.client.connection import Connection
from hsmd.client.endpoint import AgentEndpoint, Endpoint, parse_address
from hsmd.client.keyref import KeyReference
from hsmd.client.private_key import RemotePrivateKey
from hsmd.client.sync_client import Client

__all__ = [
    "AgentEndpoint",
    "Client",
    "Connection",
    "Endpoint",
    "KeyReference",
    "RemotePrivateKey",
    "parse_address",
]
