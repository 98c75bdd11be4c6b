"""The state machine of a channel: every state with every kind, at both ends (docs/protocol.md, sections 1 and 2)."""

import pytest

from hsmd.errors import ProtocolError, VersionMismatch
from hsmd.protocol import frames
from hsmd.protocol.channel import ClientChannel, ServerChannel, State
from hsmd.protocol.frames import MAX_ANSWER_LENGTH, MAX_REQUEST_LENGTH, Capability, Hello, Kind, Welcome

BOTH = Capability.CONTROL | Capability.EVENTS
HELLO = frames.encode_hello(BOTH)
WELCOME = frames.encode_welcome(Welcome(1, BOTH, MAX_REQUEST_LENGTH, 64))
BODY = {Kind.HELLO: HELLO[13:], Kind.WELCOME: WELCOME[13:]}

SERVER_TAKES = {Kind.PING, Kind.PONG, Kind.KEY_OPERATION, Kind.CANCEL, Kind.CONTROL_REQUEST}
CLIENT_TAKES = {Kind.PING, Kind.PONG, Kind.RESULT, Kind.ERROR, Kind.CONTROL_RESULT, Kind.DRAIN, Kind.EVENT}
ID_MUST_BE_ZERO = {Kind.DRAIN, Kind.EVENT}

AnyChannel = ServerChannel | ClientChannel


def make(end: str, state: State) -> AnyChannel:
    """The channel of one end, brought to `state` by frames."""
    channel: AnyChannel = ServerChannel(BOTH, 64) if end == "server" else ClientChannel()
    if state is not State.GREETING:
        channel.receive(HELLO if end == "server" else WELCOME)
    if state is State.CLOSED:
        channel.close()
    return channel


def legal(end: str, state: State, kind: int, request_id: int) -> str:
    """How docs/protocol.md defines that a frame is handled: taken, skipped, or an error."""
    if state is State.CLOSED:
        return "skipped"
    takes = SERVER_TAKES if end == "server" else CLIENT_TAKES
    if state is State.GREETING:
        greeting = {"server": {Kind.HELLO}, "client": {Kind.WELCOME, Kind.ERROR}}[end]
        return "taken" if kind in greeting and request_id == 0 else "error"
    if kind not in takes:
        return "skipped" if kind >= 0x80 else "error"
    if kind == Kind.ERROR:
        return "taken"
    return "taken" if (request_id == 0) == (kind in ID_MUST_BE_ZERO) else "error"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("end", ["server", "client"])
def test_every_kind_is_handled_in_every_state(end: str, state: State) -> None:
    for kind in range(256):
        for request_id in (0, 1, 2**64 - 1):
            channel = make(end, state)
            body = BODY.get(Kind(kind), b"") if kind in Kind.__members__.values() else b""
            frame = frames.encode(kind, request_id, body)
            described = f"{end} {state} kind 0x{kind:02x} id {request_id}"
            match legal(end, state, kind, request_id):
                case "taken":
                    assert channel.receive(frame) == [(kind, request_id, body)], described
                    assert channel.state is not State.CLOSED, described
                case "skipped":
                    assert channel.receive(frame) == [], described
                    assert channel.state is state, described
                case "error":
                    with pytest.raises(ProtocolError):
                        channel.receive(frame)
                    assert channel.state is State.CLOSED, described


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("server", Kind.PING),
        ("server", Kind.PONG),
        ("server", Kind.CANCEL),
        ("client", Kind.PING),
        ("client", Kind.PONG),
    ],
)
def test_pings_their_answers_and_cancellations_have_no_body(end: str, kind: Kind) -> None:
    channel = make(end, State.OPEN)
    with pytest.raises(ProtocolError, match="has no body"):
        channel.receive(frames.encode(kind, 7, b"x"))
    assert channel.state is State.CLOSED


def test_requests_may_follow_the_hello_in_one_write() -> None:
    channel = make("server", State.GREETING)
    ping = frames.encode(Kind.PING, 5)
    assert [frame[0] for frame in channel.receive(HELLO + ping)] == [Kind.HELLO, Kind.PING]
    assert channel.state is State.OPEN
    assert isinstance(channel, ServerChannel) and channel.hello == Hello(1, 1, BOTH)


def test_a_peer_owes_nothing_while_its_frames_are_left_for_later() -> None:
    channel = make("server", State.GREETING)
    skipped = frames.encode(0xEE, 9, b"of a later version")
    channel.receive(HELLO + skipped + frames.encode(Kind.PING, 5) + b"\0", 2)
    assert (channel.taken, channel.more, channel.unfinished) == (2, True, False)
    assert [frame[0] for frame in channel.receive(b"", 2)] == [Kind.PING]
    assert (channel.taken, channel.more, channel.unfinished, channel.held) == (1, False, True, 1)


def test_answers_may_follow_the_welcome_in_one_write() -> None:
    channel = make("client", State.GREETING)
    result = frames.encode(Kind.RESULT, 5, b"x")
    assert [frame[0] for frame in channel.receive(WELCOME + result)] == [Kind.WELCOME, Kind.RESULT]


@pytest.mark.parametrize("pieces", ["together", "apart"])
def test_a_result_after_a_channel_error_is_not_a_greeting(pieces: str) -> None:
    channel = make("client", State.GREETING)
    error = frames.encode_error(0, VersionMismatch())
    result = frames.encode(Kind.RESULT, 5, b"x")
    if pieces == "apart":
        assert channel.receive(error) == [(Kind.ERROR, 0, error[13:])]
        error = b""
    with pytest.raises(ProtocolError, match="first frame must be welcome"):
        channel.receive(error + result)
    assert channel.state is State.CLOSED


@pytest.mark.parametrize("versions", [(0, 0), (2, 2), (2, 255)])
def test_version_ranges_without_a_common_version_are_refused(versions: tuple[int, int]) -> None:
    channel = make("server", State.GREETING)
    with pytest.raises(VersionMismatch):
        channel.receive(frames.encode(Kind.HELLO, 0, b"HSMD" + bytes(versions) + bytes(4)))
    assert channel.state is State.CLOSED


@pytest.mark.parametrize("versions", [(0, 1), (1, 1), (1, 2), (0, 255)])
def test_version_ranges_with_a_common_version_are_accepted(versions: tuple[int, int]) -> None:
    channel = make("server", State.GREETING)
    channel.receive(frames.encode(Kind.HELLO, 0, b"HSMD" + bytes(versions) + bytes(4)))
    assert channel.state is State.OPEN


def test_a_version_that_the_client_did_not_offer_is_refused() -> None:
    with pytest.raises(VersionMismatch, match="chose version 2"):
        make("client", State.GREETING).receive(frames.encode_welcome(Welcome(2, 0, 65_536, 1)))


def test_capabilities_of_both_ends_are_used() -> None:
    server = ServerChannel(BOTH, 64)
    assert server.capabilities == 0
    server.receive(frames.encode_hello(Capability.EVENTS | 1 << 31))
    assert server.capabilities == Capability.EVENTS


def test_the_welcome_has_the_limits_that_the_decoder_enforces() -> None:
    server = ServerChannel(BOTH, 64)
    server.receive(HELLO)
    welcome = server.welcome()
    assert welcome == Welcome(1, BOTH, MAX_REQUEST_LENGTH, 64)
    with pytest.raises(ProtocolError, match="frame length 65537"):
        server.receive((welcome.max_length + 1).to_bytes(4, "big"))


def test_a_client_accepts_answers_up_to_one_mebibyte() -> None:
    client = make("client", State.OPEN)
    answer = frames.encode(Kind.CONTROL_RESULT, 1, bytes(MAX_ANSWER_LENGTH - 9))
    assert len(client.receive(answer)) == 1
    with pytest.raises(ProtocolError):
        client.receive((MAX_ANSWER_LENGTH + 1).to_bytes(4, "big"))


def test_a_closed_channel_keeps_and_accepts_no_bytes() -> None:
    server = make("server", State.OPEN)
    server.receive(frames.encode(Kind.KEY_OPERATION, 1, bytes(60_000))[:-1])
    with pytest.raises(ProtocolError):
        make("server", State.OPEN).receive(HELLO)
    server.close()
    assert server._decoder.rest == b""
    assert server.receive(HELLO) == []


def test_a_greeting_or_frame_that_is_incomplete_is_reported() -> None:
    server = make("server", State.GREETING)
    assert server.unfinished
    server.receive(HELLO)
    assert not server.unfinished
    server.receive(frames.encode(Kind.PING, 1)[:3])
    assert server.unfinished
