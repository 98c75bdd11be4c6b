"""The fixed layouts of docs/protocol.md at their limits: sizes, short bodies, tiny frames."""

import pytest

from hsmd.errors import (
    ErrorCode,
    HsmdError,
    InternalFault,
    Overloaded,
    PeerError,
    ProtocolError,
    Refused,
    TokenFailure,
    Unavailable,
    from_wire,
)
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import (
    MAX_ANSWER_LENGTH,
    MAX_DATA_BYTES,
    MAX_DEADLINE_MS,
    MAX_REQUEST_LENGTH,
    Hello,
    Kind,
    Welcome,
)

KEY = bytes(range(32))


def test_a_key_operation_has_its_documented_layout() -> None:
    frame = frames.encode_key_operation(0x0102030405060708, 500, 1, 0x0403, KEY, b"data")
    assert frame == (
        (9 + 39 + 4).to_bytes(4, "big")
        + b"\x10"
        + bytes([1, 2, 3, 4, 5, 6, 7, 8])
        + b"\x00\x00\x01\xf4"
        + b"\x01"
        + b"\x04\x03"
        + KEY
        + b"data"
    )


def test_the_largest_key_operation_has_exactly_the_largest_length() -> None:
    frame = frames.encode_key_operation(1, 1, 1, 0, KEY, bytes(MAX_DATA_BYTES))
    assert int.from_bytes(frame[:4], "big") == MAX_REQUEST_LENGTH
    (decoded,) = FrameDecoder(MAX_REQUEST_LENGTH).feed(frame)
    assert frames.decode_key_operation(decoded[2]).data == bytes(MAX_DATA_BYTES)


@pytest.mark.parametrize("length", [0, 1, 8, MAX_REQUEST_LENGTH + 1, 2**31, 2**32 - 1])
def test_a_length_outside_the_limits_is_refused_with_its_four_bytes(length: int) -> None:
    decoder = FrameDecoder(MAX_REQUEST_LENGTH)
    assert decoder.feed(length.to_bytes(4, "big")[:3]) == []
    with pytest.raises(ProtocolError, match=f"frame length {length} is not between 9 and 65536"):
        decoder.feed(length.to_bytes(4, "big")[3:])


def test_a_wrong_length_after_a_good_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="frame length 8"):
        FrameDecoder(MAX_REQUEST_LENGTH).feed(frames.encode(Kind.PING, 1) + (8).to_bytes(4, "big"))


@pytest.mark.parametrize("limit", [9, 100, MAX_REQUEST_LENGTH, MAX_ANSWER_LENGTH])
def test_a_decoder_never_holds_more_than_one_frame(limit: int) -> None:
    decoder = FrameDecoder(limit)
    frame = frames.encode(Kind.RESULT, 1, bytes(limit - 9))
    assert decoder.feed(frame[:-1]) == []
    assert len(decoder.rest) == len(frame) - 1 == limit + 3
    assert decoder.feed(frame[-1:]) == [(Kind.RESULT, 1, bytes(limit - 9))]
    assert decoder.rest == b""


def test_ten_thousand_tiny_frames_in_one_read_are_decoded_in_order() -> None:
    wire = b"".join(frames.encode(Kind.PING, number) for number in range(1, 10_001))
    decoded = FrameDecoder(MAX_REQUEST_LENGTH).feed(wire)
    assert decoded == [(Kind.PING, number, b"") for number in range(1, 10_001)]


def test_frames_beyond_a_number_are_left_for_the_next_call() -> None:
    wire = b"".join(frames.encode(Kind.PING, number) for number in range(1, 6)) + b"\0\0"
    decoder = FrameDecoder(MAX_REQUEST_LENGTH)
    taken = [decoder.feed(wire, 2), decoder.feed(b"", 2)]
    assert [[number for _, number, _ in each] for each in taken] == [[1, 2], [3, 4]]
    assert decoder.more
    assert decoder.feed(b"", 2) == [(Kind.PING, 5, b"")]
    assert not decoder.more, "the two bytes behind the fifth are an unfinished frame"
    assert decoder.rest == b"\0\0"


def test_a_frame_that_arrives_byte_by_byte_is_one_frame() -> None:
    decoder = FrameDecoder(MAX_REQUEST_LENGTH)
    frame = frames.encode(Kind.RESULT, 7, b"signature")
    pieces = [decoder.feed(frame[at : at + 1]) for at in range(len(frame))]
    assert pieces[:-1] == [[]] * (len(frame) - 1)
    assert pieces[-1] == [(Kind.RESULT, 7, b"signature")]


@pytest.mark.parametrize("deadline_ms", [1, 2, MAX_DEADLINE_MS])
def test_deadlines_within_the_limits_are_accepted(deadline_ms: int) -> None:
    body = frames.key_operation_body(deadline_ms, 1, 0x0403, KEY, b"")
    assert frames.decode_key_operation_head(body) == (deadline_ms, 1, 0x0403, KEY)


@pytest.mark.parametrize("deadline_ms", [0, MAX_DEADLINE_MS + 1, 2**32 - 1])
def test_deadlines_beyond_the_limits_are_refused(deadline_ms: int) -> None:
    body = frames.key_operation_body(deadline_ms, 1, 0x0403, KEY, b"")
    with pytest.raises(ProtocolError, match=f"deadline of {deadline_ms} ms"):
        frames.decode_key_operation(body)
    with pytest.raises(ProtocolError, match=f"deadline of {deadline_ms} ms"):
        frames.decode_control_request(deadline_ms.to_bytes(4, "big") + b"{}")


@pytest.mark.parametrize("size", range(39))
def test_short_key_operations_are_refused(size: int) -> None:
    body = frames.key_operation_body(500, 1, 0x0403, KEY, b"")
    assert len(body) == 39
    with pytest.raises(ProtocolError, match="at least 39 are needed"):
        frames.decode_key_operation(body[:size])


@pytest.mark.parametrize("size", range(4))
def test_short_control_requests_are_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match="without a deadline"):
        frames.decode_control_request(bytes(size))


@pytest.mark.parametrize("size", [*range(10), 11, 100])
def test_a_hello_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"hello has {size} bytes instead of 10"):
        frames.decode_hello((b"HSMD\x01\x01\0\0\0\0" + bytes(90))[:size])


@pytest.mark.parametrize("size", [*range(13), 14, 100])
def test_a_welcome_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"welcome has {size} bytes instead of 13"):
        frames.decode_welcome(bytes(size))


def test_a_hello_must_begin_with_hsmd() -> None:
    with pytest.raises(ProtocolError, match="begin with HSMD"):
        frames.decode_hello(b"HTTP\x01\x01\0\0\0\0")


def test_a_hello_with_reversed_versions_is_refused() -> None:
    with pytest.raises(ProtocolError, match="lowest version"):
        frames.decode_hello(b"HSMD\x02\x01\0\0\0\0")


def test_hello_and_welcome_keep_unknown_bits() -> None:
    assert frames.decode_hello(b"HSMD\x01\xff\xff\xff\xff\xff") == Hello(1, 255, 2**32 - 1)
    welcome = Welcome(255, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    ((_, _, body),) = FrameDecoder(100).feed(frames.encode_welcome(welcome))
    assert frames.decode_welcome(body) == welcome


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_drain_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"drain has {size} bytes"):
        frames.decode_drain(bytes(size))


def _sent(error: HsmdError) -> HsmdError:
    return frames.decode_error(frames.error_body(error))


def test_a_long_error_text_is_truncated_between_characters() -> None:
    text = _sent(TokenFailure("a" + "é" * 400)).text
    assert text == "a" + "é" * 255  # 511 bytes; the next character has two bytes


def test_an_error_text_with_a_lone_surrogate_can_be_sent() -> None:
    assert _sent(TokenFailure("a\ud800b")).text == "a?b"


def test_the_detail_of_an_error_is_not_sent() -> None:
    assert b"slot 3" not in frames.encode_error(1, TokenFailure(detail="slot 3"))


def test_the_text_of_a_refusal_is_fixed() -> None:
    body = frames.encode_error(1, Refused(detail="no grant on key www"))
    assert body.endswith(b"refused") and b"www" not in body
    assert from_wire(ErrorCode.REFUSED, "unknown key").text == "refused"


def test_unknown_codes_are_printable_and_final() -> None:
    error = _sent(from_wire(60_000, "later"))
    assert isinstance(error, PeerError)
    assert (error.code, error.text, error.retryable) == (60_000, "later", False)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_survives_the_wire(code: ErrorCode) -> None:
    error = _sent(from_wire(code, "text", 250))
    assert error.code == code
    assert not isinstance(error, PeerError)


def test_the_retry_hint_survives_the_wire() -> None:
    error = _sent(Overloaded(retry_after_ms=250))
    assert isinstance(error, Overloaded) and error.retry_after_ms == 250


@pytest.mark.parametrize("body", [b"", bytes(5), bytes(6 + 513)])
def test_an_error_of_a_wrong_size_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="6 to 518 are allowed"):
        frames.decode_error(body)


def test_an_error_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8"):
        frames.decode_error(bytes(6) + b"\xff")


def test_an_internal_fault_has_a_fixed_text() -> None:
    assert "log" in _sent(InternalFault()).text


def test_a_key_operation_can_be_forwarded_with_another_deadline() -> None:
    body = frames.key_operation_body(500, 1, 0x0403, KEY, b"data")
    assert frames.with_deadline(body, 40) == frames.key_operation_body(40, 1, 0x0403, KEY, b"data")


def test_the_code_of_an_error_can_be_read_alone() -> None:
    assert frames.error_code(frames.error_body(Unavailable("x"))) == ErrorCode.UNAVAILABLE
