"""Messages between the launcher and the front process.

One message is one packet of a SEQPACKET socket pair: a JSON object whose member `message` names its type. `WorkerStarted` is
accompanied by two descriptors, the worker's stream socket and its progress page (`DESCRIPTORS`), no other message by any.
A packet that is not a message means that the other end is broken; it is replaced, or this process exits to be replaced.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from hsmd.errors import ProtocolError

MAX_PACKET_BYTES = 65_536
DESCRIPTORS = 2
"""Descriptors that accompany `WorkerStarted`."""

Pid = Annotated[int, Meta(ge=1)]


class Starts(Enum):
    """How many workers the launcher may start for a token."""

    NONE = "none"
    ONE = "one"
    """A single worker of the token: the first one that is missing."""
    ALL = "all"


class _Message(Struct, tag_field="message", forbid_unknown_fields=True, frozen=True):
    """Base of all messages in both directions."""


# --- launcher to front ---


class WorkerStarted(_Message, tag="worker-started", frozen=True):
    """A worker has been started. `generation` numbers the settings it was started with, `control` marks the control worker."""

    token: str
    generation: Annotated[int, Meta(ge=1)]
    pid: Pid
    control: bool


class WorkerEnded(_Message, tag="worker-ended", frozen=True):
    """A worker has ended, by this signal or by exiting (0)."""

    token: str
    pid: Pid
    signal: Annotated[int, Meta(ge=0)]


class Reload(_Message, tag="reload", frozen=True):
    """Read hsmd.toml again; the launcher has found it valid. The answer is `Reloaded`."""


class Drain(_Message, tag="drain", frozen=True):
    """Answer open requests, then exit."""


AnyToFront = WorkerStarted | WorkerEnded | Reload | Drain


# --- front to launcher ---


class FrontReady(_Message, tag="front-ready", frozen=True):
    """The front accepts connections at these addresses; `host_key` is an OpenSSH public key line."""

    addresses: list[str]
    host_key: str


class Reloaded(_Message, tag="reloaded", frozen=True):
    """Whether the front has applied the new hsmd.toml. If it has, the launcher starts workers for changed tokens."""

    applied: bool


class ReplaceWorker(_Message, tag="replace-worker", frozen=True):
    """The front has given up this worker (stalled, retired or ended): kill it if it runs, and start another."""

    pid: Pid


class PermitStarts(_Message, tag="permit-starts", frozen=True):
    """How many workers may be started for a token; none before the first of these messages.

    `cleared`: the next start may try the PIN despite the token's warnings, because an operator has cleared the token.
    """

    token: str
    starts: Starts
    cleared: bool


AnyToLauncher = FrontReady | Reloaded | ReplaceWorker | PermitStarts

_Any = TypeVar("_Any")
_encoder = msgspec.json.Encoder()
_front_decoder = msgspec.json.Decoder(AnyToFront)
_launcher_decoder = msgspec.json.Decoder(AnyToLauncher)


def encode(message: AnyToFront | AnyToLauncher) -> bytes:
    """The packet of a message."""
    return _encoder.encode(message)


def decode_for_front(packet: bytes, descriptors: int) -> AnyToFront:
    """The launcher's message, received with this number of descriptors. Raises ProtocolError."""
    message: AnyToFront = _decode(_front_decoder, packet)
    expected = DESCRIPTORS if isinstance(message, WorkerStarted) else 0
    if descriptors != expected:
        raise ProtocolError(f"launcher message: {descriptors} descriptors instead of {expected}")
    return message


def decode_for_launcher(packet: bytes) -> AnyToLauncher:
    """The front's message. Raises ProtocolError."""
    message: AnyToLauncher = _decode(_launcher_decoder, packet)
    return message


def _decode(decoder: msgspec.json.Decoder[_Any], packet: bytes) -> _Any:
    try:
        return decoder.decode(packet)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"launcher message: {error}") from None
