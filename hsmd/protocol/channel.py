"""The state machine of one channel, the same tables for both ends: which frame may come when.

It owns no I/O and no clock. Both ends feed it what they received and write what they encode; illegal means there is no row.
"""

from __future__ import annotations

from enum import Enum

from hsmd.errors import ProtocolError, VersionMismatch
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    MAX_REQUEST_LENGTH,
    VERSION,
    Frame,
    FrameDecoder,
    Hello,
    Kind,
    Welcome,
    decode_hello,
    decode_welcome,
)


class State(Enum):
    """Where a channel stands, as seen from the receiving end."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


_SERVER_RECEIVES = frozenset({Kind.PING, Kind.PONG, Kind.KEY_OPERATION, Kind.CANCEL, Kind.CONTROL_REQUEST})
_CLIENT_RECEIVES = frozenset(
    {Kind.PING, Kind.PONG, Kind.RESULT, Kind.ERROR, Kind.CONTROL_RESULT, Kind.DRAIN, Kind.EVENT}
)
_OPTIONAL_FROM = 0x80
_WITHOUT_REQUEST = frozenset({Kind.ERROR, Kind.DRAIN, Kind.EVENT})
"""Kinds that may carry request id 0: an `error` with id 0 speaks of the channel itself."""
_NEVER_OF_A_REQUEST = _WITHOUT_REQUEST - {Kind.ERROR}


class _Channel:
    """What both ends share: decoding, the gate before the greeting, the kinds that may follow it."""

    _greeting: Kind
    _receives: frozenset[Kind]
    _also_before_greeting: frozenset[Kind] = frozenset()

    def __init__(self, max_length: int) -> None:
        self.state = State.GREETING
        self._decoder = FrameDecoder(max_length)

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, each legal in its state; the greeting itself is among them.

        Raises ProtocolError or VersionMismatch; the channel is closed from then on.
        """
        if self.state is State.CLOSED:
            return []
        try:
            frames = self._decoder.feed(data)
            greeted = 0
            while self.state is State.GREETING and greeted < len(frames):
                self._greet(frames[greeted])
                greeted += 1
            self._check(frames[greeted:] if greeted else frames)
        except (ProtocolError, VersionMismatch):
            self.close()
            raise
        return [frame for frame in frames if frame[0] < _OPTIONAL_FROM or frame[0] in self._receives]

    @property
    def unfinished(self) -> bool:
        """Whether the peer owes the rest of a frame, or its greeting."""
        return self.state is State.GREETING or self._decoder.buffered > 0

    def close(self) -> None:
        """Nothing more is taken from this channel."""
        self.state = State.CLOSED
        self._decoder = FrameDecoder(0)

    def _greet(self, frame: Frame) -> None:
        kind, request_id, body = frame
        if kind in self._also_before_greeting and request_id == 0:
            return
        if kind != self._greeting or request_id != 0:
            raise ProtocolError(f"the first frame must be {self._greeting.name.lower()} with request id 0")
        self._open(body)
        self.state = State.OPEN

    def _open(self, body: bytes) -> None:
        raise NotImplementedError

    def _check(self, frames: list[Frame]) -> None:
        receives = self._receives
        for kind, request_id, _ in frames:
            if kind not in receives:
                if kind >= _OPTIONAL_FROM:
                    continue
                raise ProtocolError(f"a frame of kind 0x{kind:02x} is not allowed here")
            if request_id == 0:
                if kind not in _WITHOUT_REQUEST:
                    raise ProtocolError(f"a frame of kind 0x{kind:02x} needs a request id other than 0")
            elif kind in _NEVER_OF_A_REQUEST:
                raise ProtocolError(f"a frame of kind 0x{kind:02x} must have request id 0")


class ServerChannel(_Channel):
    """The end that serves. After the greeting `hello` holds what the client said."""

    _greeting = Kind.HELLO
    _receives = _SERVER_RECEIVES

    def __init__(self, capabilities: int, max_open_requests: int) -> None:
        super().__init__(MAX_REQUEST_LENGTH)
        self._capabilities = capabilities
        self._max_open_requests = max_open_requests
        self.hello: Hello | None = None

    @property
    def capabilities(self) -> int:
        """The capabilities both ends have; 0 before the greeting."""
        return self._capabilities & self.hello.capabilities if self.hello else 0

    def welcome(self) -> Welcome:
        """The answer to the client's hello."""
        return Welcome(VERSION, self._capabilities, MAX_REQUEST_LENGTH, self._max_open_requests)

    def _open(self, body: bytes) -> None:
        hello = decode_hello(body)
        if not hello.version_min <= VERSION <= hello.version_max:
            raise VersionMismatch(f"this server speaks version {VERSION}")
        self.hello = hello


class ClientChannel(_Channel):
    """The end that asks. After the greeting `welcome` holds the server's limits."""

    _greeting = Kind.WELCOME
    _receives = _CLIENT_RECEIVES
    _also_before_greeting = frozenset({Kind.ERROR})

    def __init__(self) -> None:
        super().__init__(MAX_ANSWER_LENGTH)
        self.welcome: Welcome | None = None

    def _open(self, body: bytes) -> None:
        welcome = decode_welcome(body)
        if welcome.version != VERSION:
            raise VersionMismatch(f"the server chose version {welcome.version}, this client speaks {VERSION}")
        self.welcome = welcome
