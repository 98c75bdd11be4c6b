"""The Python codec against the golden vectors, which the C provider is tested with too (tests/vectors/protocol.json)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsmd.client import keyref
from hsmd.errors import BadRequest
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Kind

_FILE = Path(__file__).parents[2] / "vectors" / "protocol.json"
VECTORS: list[dict[str, Any]] = json.loads(_FILE.read_text())["frames"]
REFERENCES: list[dict[str, Any]] = json.loads(_FILE.read_text())["references"]


def _hello(body: bytes) -> dict[str, Any]:
    return frames.decode_hello(body)._asdict()


def _welcome(body: bytes) -> dict[str, Any]:
    return frames.decode_welcome(body)._asdict()


def _key_operation(body: bytes) -> dict[str, Any]:
    fields = frames.decode_key_operation(body)._asdict()
    return fields | {"key_hex": fields.pop("key").hex(), "data_hex": fields.pop("data").hex()}


def _error(body: bytes) -> dict[str, Any]:
    error = frames.decode_error(body)
    return {"code": int(error.code), "retry_after_ms": error.retry_after_ms, "text": error.text}


def _control_request(body: bytes) -> dict[str, Any]:
    deadline_ms, document = frames.decode_control_request(body)
    return {"deadline_ms": deadline_ms, "document": document.decode()}


DECODERS: dict[int, Callable[[bytes], dict[str, Any]]] = {
    Kind.HELLO: _hello,
    Kind.WELCOME: _welcome,
    Kind.PING: lambda body: {},
    Kind.PONG: lambda body: {},
    Kind.KEY_OPERATION: _key_operation,
    Kind.RESULT: lambda body: {"answer_hex": body.hex()},
    Kind.ERROR: _error,
    Kind.CANCEL: lambda body: {},
    Kind.CONTROL_REQUEST: _control_request,
    Kind.CONTROL_RESULT: lambda body: {"document": body.decode()},
    Kind.DRAIN: lambda body: {"grace_ms": frames.decode_drain(body)},
    Kind.EVENT: lambda body: {"document": body.decode()},
}


def _encode(kind: int, request_id: int, of: dict[str, Any]) -> bytes:
    """The frame that the codec encodes from the fields of a vector."""
    match kind:
        case Kind.HELLO:
            assert of["version_min"] == of["version_max"] == frames.VERSION
            return frames.encode_hello(of["capabilities"])
        case Kind.WELCOME:
            return frames.encode_welcome(frames.Welcome(**of))
        case Kind.KEY_OPERATION:
            key, data = bytes.fromhex(of["key_hex"]), bytes.fromhex(of["data_hex"])
            return frames.encode_key_operation(
                request_id, of["deadline_ms"], of["purpose"], of["scheme"], key, data
            )
        case Kind.RESULT:
            return frames.encode(kind, request_id, bytes.fromhex(of["answer_hex"]))
        case Kind.ERROR:
            error = frames.from_wire(of["code"], of["text"], of["retry_after_ms"])
            return frames.encode_error(request_id, error)
        case Kind.CONTROL_REQUEST:
            return frames.encode_control_request(request_id, of["deadline_ms"], of["document"].encode())
        case Kind.CONTROL_RESULT | Kind.EVENT:
            return frames.encode(kind, request_id, of["document"].encode())
        case Kind.DRAIN:
            return frames.encode_drain(of["grace_ms"])
        case _:
            return frames.encode(kind, request_id)


def test_there_is_a_vector_for_every_kind() -> None:
    assert {vector["kind"] for vector in VECTORS} == set(Kind)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_decoder_reads_the_fields_of_the_vector(vector: dict[str, Any]) -> None:
    wire = bytes.fromhex(vector["frame_hex"])
    (frame,) = FrameDecoder(frames.MAX_ANSWER_LENGTH).feed(wire)
    assert frame == (vector["kind"], vector["id"], bytes.fromhex(vector["body_hex"]))
    decoded = DECODERS[vector["kind"]](frame[2])
    if "document" in decoded and isinstance(vector["fields"]["document"], dict):
        decoded["document"] = json.loads(decoded["document"])
    assert decoded == vector["fields"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_encoder_writes_the_bytes_of_the_vector(vector: dict[str, Any]) -> None:
    assert _encode(vector["kind"], vector["id"], vector["fields"]).hex() == vector["frame_hex"]


@pytest.mark.parametrize("vector", REFERENCES, ids=lambda vector: vector["name"])
def test_key_reference_files_are_read_as_in_the_vectors(vector: dict[str, Any]) -> None:
    if vector["ok"]:
        reference = keyref.decode(vector["pem"])
        made = keyref.encode(reference)
        fields = vector["fields"]
        assert keyref.decode(made) == reference
        assert (reference.name, reference.public_key.hex()) == (fields["name"], fields["public_key_hex"])
        assert made == vector["pem"].replace("\r\n", "\n")
    else:
        with pytest.raises(BadRequest, match="key reference"):
            keyref.decode(vector["pem"])
