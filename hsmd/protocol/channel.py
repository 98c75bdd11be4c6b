"""The receiving side of a channel: cuts bytes into frames and checks which frame may come when, for both ends.

No I/O and no clock: each end passes in what it has received, and writes what it encodes.
"""

from __future__ import annotations

import sys
from enum import Enum

from hsmd.errors import ProtocolError, VersionMismatch
from hsmd.protocol.frames import (
    HEADER,
    HEADER_BYTES,
    ID_AND_KIND_BYTES,
    MAX_ANSWER_LENGTH,
    MAX_REQUEST_LENGTH,
    VERSION,
    Frame,
    Hello,
    Kind,
    Welcome,
    decode_hello,
    decode_welcome,
)

ALL = sys.maxsize
"""A number of frames that is never reached."""


class FrameDecoder:
    """Cuts a byte stream into frames; holds at most one unfinished frame of `max_length` bytes, and what was left over."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        self.rest = b""
        """What has been received and is not decoded: an unfinished frame, or what the last call was told to leave."""
        self.more = False
        """Whether `rest` begins with a complete frame, which the next call returns."""

    def feed(self, data: bytes, at_most: int = ALL) -> list[Frame]:
        """The frames that `data` completes, or the first `at_most` of them.

        Raises ProtocolError for a length outside 9 to the limit.

        The length is checked as soon as its four bytes are there, before the frame's body is kept.
        """
        if self.rest:
            data = self.rest + data
        frames: list[Frame] = []
        at, size = 0, len(data)
        unpack = HEADER.unpack_from
        self.more = False
        while size - at >= HEADER_BYTES:
            length, kind, request_id = unpack(data, at)
            self._check(length)
            end = at + 4 + length
            if end > size:
                break
            if len(frames) >= at_most:
                self.more = True
                break
            frames.append((kind, request_id, data[at + HEADER_BYTES : end]))
            at = end
        if size - at >= 4:
            self._check(int.from_bytes(data[at : at + 4], "big"))
        self.rest = data[at:] if at else data
        return frames

    def _check(self, length: int) -> None:
        if not ID_AND_KIND_BYTES <= length <= self._max_length:
            raise ProtocolError(
                f"frame length {length} is not between {ID_AND_KIND_BYTES} and {self._max_length}"
            )


class State(Enum):
    """The state of a channel, as the receiving end sees it."""

    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


_SERVER_RECEIVES = frozenset({Kind.PING, Kind.PONG, Kind.KEY_OPERATION, Kind.CANCEL, Kind.CONTROL_REQUEST})
_CLIENT_RECEIVES = frozenset(
    {Kind.PING, Kind.PONG, Kind.RESULT, Kind.ERROR, Kind.CONTROL_RESULT, Kind.DRAIN, Kind.EVENT}
)
_OPTIONAL_FROM = 0x80
_WITHOUT_REQUEST = frozenset({Kind.ERROR, Kind.DRAIN, Kind.EVENT})
"""Kinds that may carry request id 0: an `error` with id 0 is about the channel itself."""
_NEVER_OF_A_REQUEST = _WITHOUT_REQUEST - {Kind.ERROR}
_WITHOUT_BODY = frozenset({Kind.PING, Kind.PONG, Kind.CANCEL})


class _Channel:
    """What both ends share: decoding, the greeting, and the kinds that may follow it."""

    _greeting: Kind
    _receives: frozenset[Kind]
    _also_before_greeting: frozenset[Kind] = frozenset()

    def __init__(self, max_length: int) -> None:
        self.state = State.GREETING
        self.unfinished = True
        """Whether the peer owes the rest of a frame, or its greeting."""
        self.taken = 0
        """How many frames the last call of `receive` decoded, those that it skipped among them."""
        self._decoder = FrameDecoder(max_length)

    @property
    def more(self) -> bool:
        """Whether the last call of `receive` left complete frames for the next one."""
        return self._decoder.more

    @property
    def held(self) -> int:
        """Bytes that were received and are not decoded."""
        return len(self._decoder.rest)

    def receive(self, data: bytes, at_most: int = ALL) -> list[Frame]:
        """The frames that `data` completes, or the first `at_most` of them, each legal in its state.

        The greeting itself is among them. `more` tells whether frames were left for the next call, which may pass no data.
        Raises ProtocolError or VersionMismatch; the channel is closed from then on.
        """
        if self.state is State.CLOSED:
            return []
        try:
            frames = self._decoder.feed(data, at_most)
            self.taken = len(frames)
            greeted = 0
            while self.state is State.GREETING and greeted < len(frames):
                self._greet(frames[greeted])
                greeted += 1
            self._check(frames[greeted:] if greeted else frames)
        except (ProtocolError, VersionMismatch):
            self.close()
            raise
        decoder = self._decoder
        self.unfinished = self.state is State.GREETING or (bool(decoder.rest) and not decoder.more)
        return [frame for frame in frames if frame[0] < _OPTIONAL_FROM or frame[0] in self._receives]

    def close(self) -> None:
        """Ignore whatever else is received."""
        self.state = State.CLOSED
        self.unfinished = False
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
        for kind, request_id, body in frames:
            if kind not in receives:
                if kind >= _OPTIONAL_FROM:
                    continue
                raise ProtocolError(f"a frame of kind 0x{kind:02x} is not allowed here")
            if request_id == 0:
                if kind not in _WITHOUT_REQUEST:
                    raise ProtocolError(f"a frame of kind 0x{kind:02x} needs a request id other than 0")
            elif kind in _NEVER_OF_A_REQUEST:
                raise ProtocolError(f"a frame of kind 0x{kind:02x} must have request id 0")
            if body and kind in _WITHOUT_BODY:
                raise ProtocolError(f"a frame of kind 0x{kind:02x} has no body")


class ServerChannel(_Channel):
    """The server's end. After the greeting `hello` is the client's."""

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
    """The client's end. After the greeting `welcome` holds the server's limits."""

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
