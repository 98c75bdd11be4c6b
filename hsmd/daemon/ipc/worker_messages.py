"""Messages between front and workers besides key operations: events and control requests.

They are JSON in the `event`, `control request` and `control result` frames of docs/protocol.md, on the socket pair between
one worker and the front. Only the control worker accepts control requests.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, Struct

from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES
from hsmd.errors import BadRequest, ProtocolError
from hsmd.protocol.messages import Done, Name, Pem, PurposeLabel, Text

HexDigest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""SHA-256 of a key's DER SubjectPublicKeyInfo."""
HexId = Annotated[str, Meta(pattern=r"^([0-9a-fA-F]{2}){0,64}\Z")]


PROBE = b'{"event":"probe"}'
"""The event by which the front requests a probe of the token; the answer is `Probed`."""

KEYS_CHANGED = b'{"event":"keys-changed"}'
"""What fronts of earlier releases send: the worker searches the whole token at once. It may be newer than a running front."""

# --- events, front to worker ---


class LookUp(Struct, tag_field="event", tag="look-up", frozen=True):
    """Keys (digests in hex) that are new in the token. The worker looks for them between other work, and sends `LookedUp`."""

    keys: list[HexDigest]


class Forget(Struct, tag_field="event", tag="forget", frozen=True):
    """Keys (digests in hex) that were destroyed."""

    keys: list[HexDigest]


# --- events, worker to front ---


class Ready(Struct, tag_field="event", tag="ready", frozen=True):
    """The worker is logged in and serves `keys` keys; `abilities` are the names of the token's mechanisms that hsmd uses.

    `wrapping` is from the control worker: what it tried with wrapped keys and what works (`hsmd.pkcs11.wrapping_probe`). So is
    `write_protected`: the token refused a session that could make keys.
    """

    label: str
    serial: str
    model: str
    abilities: list[str]
    keys: int
    wrapping: list[str] = []
    write_protected: bool = False


class Failed(Struct, tag_field="event", tag="failed", frozen=True):
    """The worker exits because of a failure. `login_refused`: an operator must fix the PIN before the next try."""

    text: str
    login_refused: bool = False


class Probed(Struct, tag_field="event", tag="probed", frozen=True):
    """Result of a probe. `fault` is empty if it succeeded; otherwise it says what failed, and the worker exits."""

    fault: str = ""


class Faulty(Struct, tag_field="event", tag="faulty", frozen=True):
    """The token returned an invalid signature for the key (digest in hex): it was not sent, and the worker exits."""

    key: str
    text: str


class LookedUp(Struct, tag_field="event", tag="looked-up", frozen=True):
    """The oldest `LookUp` that was not answered yet is done; `missing` are those of its keys that the token does not serve."""

    missing: list[str]


AnyEvent = Ready | Failed | Probed | Faulty | LookedUp
AnyNotice = LookUp | Forget


# --- control requests, front to control worker ---


class TokenRequest(Struct, tag_field="op", forbid_unknown_fields=True, frozen=True):
    """Base of all requests to the control worker. `Result` is the type of the answer."""

    Result: ClassVar[type[Struct]]


class KeyDescription(Struct, frozen=True):
    """A key with a ceiling; `key` is its digest in hex, `public_key` the DER SubjectPublicKeyInfo.

    `problem` says why the token does not serve it, empty if it does; it is among the `warnings` too.
    """

    key: str
    key_type: str
    public_key: bytes
    purposes: list[str]
    cka_id: str
    cka_label: str
    warnings: list[str] = []
    problem: str = ""


class Generate(TokenRequest, tag="generate", frozen=True):
    """Generate a key pair in the token; `purposes` and their `constraints`, by label, become its permanent ceiling.

    With `reserve` they become the most that it may be adopted for; no daemon serves it until then.
    """

    Result: ClassVar = KeyDescription
    name: Name
    key_type: Text
    purposes: list[PurposeLabel]
    constraints: dict[PurposeLabel, dict[str, Any]] = {}
    reserve: bool = False


class Adopt(TokenRequest, tag="adopt", frozen=True):
    """Serve a key that is already in the token, identified by exactly one of CKA_ID, CKA_LABEL and digest.

    A key that has a ceiling keeps it: `purposes` and `constraints` must be empty or the same. `certificate` (PEM) gives the
    public half if the token does not show it. A key with unsafe attributes is refused unless `accept_unsafe`.
    """

    Result: ClassVar = KeyDescription
    name: Name
    purposes: list[PurposeLabel] = []
    cka_id: HexId = ""
    cka_label: Text = ""
    key: Text = ""
    certificate: Pem = ""
    accept_unsafe: bool = False
    constraints: dict[PurposeLabel, dict[str, Any]] = {}


class Destroy(TokenRequest, tag="destroy", frozen=True):
    """Destroy a served key permanently: private key, public key and ceiling. No error if it is already gone."""

    Result: ClassVar = Done
    key: HexDigest


NO_PRIVATE_KEY = "the private key is not in the token"
"""The problem of a ceiling whose private key is missing."""


class KeyDescriptions(Struct, frozen=True, omit_defaults=True):
    """A page of the keys that have a ceiling. `cursor` asks for the next page; it is empty if there is none."""

    keys: list[KeyDescription]
    cursor: str = ""


Cursor = Annotated[str, Meta(max_length=64)]


class Describe(TokenRequest, tag="describe", frozen=True, omit_defaults=True):
    """Describe the keys that the token serves, in pages; without a `cursor` the token is searched again.

    With `brief` the descriptions have neither public key nor CKA_LABEL nor warnings about attributes.
    """

    Result: ClassVar = KeyDescriptions
    cursor: Cursor = ""
    brief: bool = False


class Candidate(Struct, frozen=True):
    """A private key object. `key_type` and `key` are empty where the token does not show the public half.

    `finding` is one of `FINDING` in the control protocol, with `why` and `next_step` in words; `shared` is the number of other
    private key objects with its CKA_ID.
    """

    cka_id: str
    cka_label: str
    key_type: str
    key: str
    unsafe: list[str]
    finding: str = ""
    why: str = ""
    next_step: str = ""
    shared: int = 0


class CandidateList(Struct, frozen=True, omit_defaults=True):
    """A page of private keys of the token. `cursor` asks for the next page; it is empty if there is none."""

    keys: list[Candidate]
    cursor: str = ""


class Candidates(TokenRequest, tag="candidates", frozen=True, omit_defaults=True):
    """List the private keys of the token that are not served, and what is made of each; with `served` all of them. In pages."""

    Result: ClassVar = CandidateList
    cursor: Cursor = ""
    served: bool = False


Envelope = Annotated[bytes, Meta(max_length=MAX_ENVELOPE_BYTES)]
Spki = Annotated[bytes, Meta(max_length=2_048)]
"""DER SubjectPublicKeyInfo."""


class Unwrap(TokenRequest, tag="unwrap", frozen=True):
    """Open an envelope that is sealed to a key of this token for `unwrap-key`, and serve the private key that is in it.

    It must be the private key of `public_key`. `purposes` become its permanent ceiling. With `keep` false nothing is
    stored: the answer shows that the envelope can be opened, and `name` and `purposes` do not matter.
    """

    Result: ClassVar = KeyDescription
    name: Name
    envelope: Envelope
    public_key: Spki
    purposes: list[PurposeLabel] = []
    keep: bool = True


class WrappedKey(Struct, frozen=True):
    """A private key that exists only in the envelope, and its public half; `key` is its digest in hex."""

    key: str
    key_type: str
    public_key: bytes
    envelope: bytes


class Wrap(TokenRequest, tag="wrap", frozen=True):
    """Generate a key pair for an envelope to `recipient`, an RSA key, with `suite` and `about` in the envelope's header.

    The private key does not stay in the token. If it shall, seal it to a key of the token and unwrap the envelope.
    """

    Result: ClassVar = WrappedKey
    key_type: Text
    recipient: Spki
    suite: Text
    about: dict[str, Any] = {}


AnyRequest = Generate | Adopt | Destroy | Describe | Candidates | Unwrap | Wrap

_encoder = msgspec.json.Encoder()
_request_decoder = msgspec.json.Decoder(AnyRequest)
_event_decoder = msgspec.json.Decoder(AnyEvent)
_notice_decoder = msgspec.json.Decoder(AnyNotice)


def encode(value: Struct) -> bytes:
    """The JSON document of an event, request or result."""
    return _encoder.encode(value)


def decode_request(document: bytes) -> AnyRequest:
    """The request in a JSON document. Raises BadRequest naming the faulty member."""
    try:
        request: AnyRequest = _request_decoder.decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"token request: {error}") from None
    return request


def decode_event(document: bytes) -> AnyEvent:
    """The event in a JSON document. Raises ProtocolError."""
    try:
        event: AnyEvent = _event_decoder.decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"worker event: {error}") from None
    return event


def decode_notice(document: bytes) -> AnyNotice:
    """What the front tells a worker, besides `PROBE` and `KEYS_CHANGED`. Raises ProtocolError."""
    try:
        notice: AnyNotice = _notice_decoder.decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"event from the front: {error}") from None
    return notice
