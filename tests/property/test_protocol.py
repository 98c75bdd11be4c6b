"""Properties of the protocol: encoded values decode to themselves, in any pieces; all else raises the declared errors."""

from hypothesis import example, given, strategies as st

from hsmd.errors import HsmdError, ProtocolError, from_wire
from hsmd.protocol import frames, messages
from hsmd.protocol.channel import ClientChannel, FrameDecoder, ServerChannel
from hsmd.protocol.frames import Frame, Kind, Welcome

LIMIT = 4_096

u8, u16, u32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
request_ids = st.integers(0, 2**64 - 1)
frame_values = st.tuples(u8, request_ids, st.binary(max_size=200))
HELLO = frames.encode_hello(3)
WELCOME = frames.encode_welcome(Welcome(1, 3, 65_536, 16))


def cut(wire: bytes, ends: list[int]) -> list[bytes]:
    """`wire` in the pieces that end at `ends`."""
    ends = sorted({min(at, len(wire)) for at in ends} | {len(wire)})
    return [wire[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(frame_values, max_size=20), st.lists(st.integers(0, 5_000), max_size=30))
def test_frames_decode_to_themselves_in_any_pieces(sent: list[Frame], ends: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    wire = b"".join(frames.encode(*frame) for frame in sent)
    assert [frame for piece in cut(wire, ends) for frame in decoder.feed(piece)] == sent
    assert decoder.rest == b""


def outcome(decoder: FrameDecoder, pieces: list[bytes]) -> tuple[list[Frame], str]:
    """The frames before the first error, and the error's text."""
    decoded: list[Frame] = []
    try:
        for piece in pieces:
            decoded += decoder.feed(piece)
    except ProtocolError as error:
        return decoded, error.text
    return decoded, ""


@given(st.binary(max_size=300))
@example((8).to_bytes(4, "big"))
@example(frames.encode(3, 1) + bytes(4))
def test_byte_by_byte_equals_whole_on_any_bytes(wire: bytes) -> None:
    whole, error = outcome(FrameDecoder(LIMIT), [wire])
    apart, error_apart = outcome(FrameDecoder(LIMIT), [wire[at : at + 1] for at in range(len(wire))])
    assert error == error_apart
    if not error:  # a read that contains an error returns no frames: the peer is disconnected
        assert whole == apart


@given(st.lists(st.binary(max_size=400), max_size=20), st.integers(9, LIMIT))
def test_a_decoders_buffer_is_bounded(pieces: list[bytes], limit: int) -> None:
    decoder = FrameDecoder(limit)
    try:
        for piece in pieces:
            decoder.feed(piece)
            assert len(decoder.rest) < limit + 4
    except ProtocolError:
        assert len(decoder.rest) < limit + 4


@given(
    request_ids, st.integers(1, 60_000), u8, u16, st.binary(min_size=32, max_size=32), st.binary(max_size=500)
)
def test_key_operations_round_trip(
    request_id: int, deadline_ms: int, purpose: int, scheme: int, key: bytes, data: bytes
) -> None:
    wire = frames.encode_key_operation(request_id, deadline_ms, purpose, scheme, key, data)
    ((kind, seen_id, body),) = FrameDecoder(LIMIT).feed(wire)
    assert (kind, seen_id) == (Kind.KEY_OPERATION, request_id)
    assert frames.decode_key_operation(body) == (deadline_ms, purpose, scheme, key, data)


@given(u32)
def test_hello_and_drain_round_trip(number: int) -> None:
    assert frames.decode_hello(frames.encode_hello(number)[13:]).capabilities == number
    assert frames.decode_drain(frames.encode_drain(number)[13:]) == number


@given(st.builds(Welcome, u8, u32, u32, u32))
def test_welcome_round_trips(welcome: Welcome) -> None:
    assert frames.decode_welcome(frames.encode_welcome(welcome)[13:]) == welcome


@given(u16, u32, st.text(max_size=700))
def test_errors_round_trip(code: int, retry_after_ms: int, text: str) -> None:
    error = from_wire(code, text, retry_after_ms)
    seen = frames.decode_error(frames.encode_error(1, error)[13:])
    assert (type(seen), seen.code, seen.retry_after_ms) == (type(error), error.code, error.retry_after_ms)
    assert error.text.startswith(seen.text) and len(seen.text.encode()) <= 512


@given(st.integers(1, 60_000), st.binary(max_size=300))
def test_control_requests_round_trip(deadline_ms: int, document: bytes) -> None:
    body = frames.encode_control_request(1, deadline_ms, document)[13:]
    assert frames.decode_control_request(body) == (deadline_ms, document)


BODY_DECODERS = (
    frames.decode_hello,
    frames.decode_welcome,
    frames.decode_key_operation,
    frames.decode_control_request,
    frames.decode_drain,
    frames.decode_error,
)


@given(st.sampled_from(BODY_DECODERS), st.binary(max_size=600))
def test_bodies_of_any_bytes_raise_protocol_errors_only(decode, body: bytes) -> None:  # type: ignore[no-untyped-def]
    try:
        decode(body)
    except ProtocolError as error:
        assert error.text


wire_of_an_open_channel = st.lists(
    st.builds(
        frames.encode,
        st.one_of(st.sampled_from(list(Kind)).map(int), u8),
        st.one_of(st.just(0), st.just(1), request_ids),
        st.binary(max_size=60),
    ),
    max_size=8,
).map(b"".join)


def feed(channel: ServerChannel | ClientChannel, pieces: list[bytes]) -> tuple[list[Frame], type | None]:
    """The frames before the first error, and the error's type."""
    seen: list[Frame] = []
    try:
        for piece in pieces:
            seen += channel.receive(piece)
    except HsmdError as error:
        return seen, type(error)
    return seen, None


@given(st.booleans(), st.booleans(), wire_of_an_open_channel, st.lists(st.integers(0, 600), max_size=12))
@example(True, False, frames.encode_error(0, ProtocolError()) + WELCOME + frames.encode(Kind.RESULT, 1), [])
@example(True, False, frames.encode_error(0, ProtocolError()) + frames.encode(Kind.RESULT, 1), [19 + 40])
def test_a_channel_decodes_alike_in_any_pieces(
    client: bool, greeted: bool, wire: bytes, ends: list[int]
) -> None:
    def make() -> ServerChannel | ClientChannel:
        return ClientChannel() if client else ServerChannel(3, 16)

    if greeted:
        wire = (WELCOME if client else HELLO) + wire
    whole, whole_error = feed(make(), [wire])
    apart, apart_error = feed(make(), cut(wire, ends))
    bytewise, bytewise_error = feed(make(), [bytes([byte]) for byte in wire])
    assert whole_error == apart_error == bytewise_error
    if whole_error is None:
        assert whole == apart == bytewise


names = st.from_regex(
    r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", fullmatch=True, alphabet=st.characters(max_codepoint=126)
)
labels = st.lists(st.text(max_size=32), max_size=4)
requests = st.one_of(
    st.just(messages.WhoAmI()),
    st.builds(messages.KeyGenerate, name=names, key_type=st.text(max_size=20), purposes=labels),
    st.builds(messages.KeyDestroy, name=names, confirm=st.text(max_size=20)),
    st.builds(messages.GrantAdd, client=names, key=names, purposes=labels),
    st.builds(messages.ClientAdd, name=names, role=st.text(max_size=20), public_key=st.text(max_size=50)),
    st.builds(messages.AuditRead, first=st.integers(-(2**53), 2**53), limit=st.integers(1, 500)),
    st.builds(messages.AuditCheckpoint, since=st.integers(0, 2**53 - 1)),
    st.builds(messages.CertificateImport, key=names, chain=st.text(max_size=200)),
)


@given(requests)
def test_control_messages_round_trip(request: messages.Request) -> None:
    assert messages.decode_request(messages.encode_request(request)) == request


@given(requests, st.integers(0, 10_000), st.binary(max_size=4))
def test_mutated_control_messages_raise_declared_errors_only(
    request: messages.Request, at: int, put: bytes
) -> None:
    document = bytearray(messages.encode_request(request))
    at %= len(document)
    document[at : at + len(put) or 1] = put
    try:
        messages.decode_request(bytes(document))
    except HsmdError as error:
        assert error.text.startswith("control request: ")


@given(st.sampled_from([request.Result for request in messages.REQUESTS]), st.binary(max_size=200))
def test_results_of_any_bytes_raise_protocol_errors_only(result_type, document: bytes) -> None:  # type: ignore[no-untyped-def]
    try:
        messages.decode_result(document, result_type)
    except ProtocolError as error:
        assert error.text.startswith("control result: ")
