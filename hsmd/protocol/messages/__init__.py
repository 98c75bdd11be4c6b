"""Control requests and their results: typed JSON documents inside control frames (docs/protocol.md, section 4).

Requests refuse unknown members, so that a daemon never carries out part of what a newer client meant; results tolerate them.
Times are RFC 3339 strings in UTC; keys are identified by their name, never by position.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TypeVar

import msgspec
from msgspec import Struct

from hsmd.errors import BadRequest, ProtocolError
from hsmd.protocol.messages.audit import *
from hsmd.protocol.messages.authorities import *
from hsmd.protocol.messages.base import *
from hsmd.protocol.messages.base import Request
from hsmd.protocol.messages.certificates import *
from hsmd.protocol.messages.clients import *
from hsmd.protocol.messages.events import *
from hsmd.protocol.messages.grants import *
from hsmd.protocol.messages.health import *
from hsmd.protocol.messages.keys import *
from hsmd.protocol.messages.metrics import *
from hsmd.protocol.messages.nodes import *
from hsmd.protocol.messages.statements import *
from hsmd.protocol.messages.status import *
from hsmd.protocol.messages.tokens import *
from hsmd.protocol.messages.vault_checks import *
from hsmd.protocol.messages.vault_keys import *
from hsmd.protocol.messages.vault_records import *
from hsmd.protocol.messages.vault_rekey import *
from hsmd.protocol.messages.vault_types import *

REQUESTS: tuple[type[Request], ...] = tuple(
    sorted(Request.__subclasses__(), key=lambda request: request.op())
)
"""Every request of the modules above, in the order of their operations."""

OPERATIONS = {request.op(): request for request in REQUESTS}
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(reduce(or_, REQUESTS))
_encoder = msgspec.json.Encoder()


def encode_request(request: Request) -> bytes:
    """The JSON document of a request."""
    return _encoder.encode(request)


def decode_request(document: bytes) -> Request:
    """Raises BadRequest naming the wrong member."""
    try:
        request: Request = _request_decoder.decode(document)
    except msgspec.ValidationError as error:
        raise BadRequest(f"control request: {error}") from None
    except msgspec.MsgspecError as error:
        raise BadRequest(f"control request: not one complete JSON object: {error}") from None
    except UnicodeDecodeError:  # msgspec does not catch it, and its text holds bytes that the peer sent
        raise BadRequest("control request: a string is not UTF-8") from None
    except RecursionError:
        raise BadRequest("control request: nested too deeply") from None
    return request


def encode_result(result: Struct) -> bytes:
    """The JSON document of a result."""
    return _encoder.encode(result)


R = TypeVar("R", bound=Struct)


def decode_result(document: bytes, result_type: type[R]) -> R:
    """Raises ProtocolError if the document is not of the type that the request announces."""
    try:
        return msgspec.json.decode(document, type=result_type)
    except UnicodeDecodeError:
        raise ProtocolError("control result: a string is not UTF-8") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"control result: {error}") from None
