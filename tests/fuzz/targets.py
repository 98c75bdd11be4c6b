"""Fuzz targets: each takes any bytes, and must parse them or raise the declared error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import inspect as shapes

from hsmd.algorithms import KeyType
from hsmd.anchors import certs_only, pem_bundle
from hsmd.anchors.acceptance import accept
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate, check_validity
from hsmd.daemon.worker import ceilings
from hsmd.envelopes import canonical_json, content
from hsmd.envelopes.envelope import Envelope
from hsmd.envelopes.header import Header
from hsmd.envelopes.recipients import HybridPublicKey
from hsmd.envelopes.sealing import open_envelope
from hsmd.envelopes.vault.answers import Answer
from hsmd.envelopes.vault.confirmations import Confirmation
from hsmd.envelopes.vault.management_keys import ManagementKeyStatement, WrappingSuite
from hsmd.envelopes.vault.proofs import checked_challenge
from hsmd.envelopes.vault.public_keys import canonical_spki
from hsmd.envelopes.vault.records import RecordStatement
from hsmd.errors import (
    BadRequest,
    EnvelopeInvalid,
    HsmdError,
    ProofInvalid,
    ProtocolError,
    PurposeMismatch,
    VersionMismatch,
)
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.protocol import frames, messages
from hsmd.protocol.channel import ClientChannel, FrameDecoder, ServerChannel, State
from hsmd.protocol.frames import MAX_REQUEST_LENGTH, Kind, Welcome
from hsmd.purposes import Purpose, PurposeCheck, expand
from hsmd.purposes.statement import fault_of
from hsmd.rollover import approval, plan_document, topology_file
from hsmd.rollover.problems import PlanInvalid, TopologyInvalid
from hsmd.transparency import endorsement, statement as statements
from hsmd.transparency.note import Verifier, signed
from tests.support import anchors
from tests.support.envelopes import golden
from tests.support.rollover import as_toml, node, plans_of, topology
from tests.support.vectors import vectors

HELLO = frames.encode_hello(3)
WELCOME = frames.encode_welcome(Welcome(1, 3, MAX_REQUEST_LENGTH, 16))
_VECTORS = Path(__file__).parents[1] / "vectors" / "protocol.json"


def frames_target(data: bytes) -> None:
    """The first byte is the size of the pieces of the rest; pieces and whole decode alike, and at most one frame is buffered."""
    size, wire = (data[0] or 1, data[1:]) if data else (1, b"")
    cut, whole = FrameDecoder(4_096), FrameDecoder(4_096)
    seen = []
    try:
        for at in range(0, len(wire), size):
            seen += cut.feed(wire[at : at + size])
            assert len(cut.rest) < 4_100
    except ProtocolError as error:
        _must_fail_alike(whole, wire, error)
        return
    assert whole.feed(wire) == seen
    rest = wire[len(wire) - len(cut.rest) :]
    assert b"".join(frames.encode(*frame) for frame in seen) + rest == wire


def _must_fail_alike(decoder: FrameDecoder, wire: bytes, error: ProtocolError) -> None:
    try:
        decoder.feed(wire)
    except ProtocolError as other:
        assert other.text == error.text
        return
    raise AssertionError("the bytes were refused in pieces, but accepted as a whole")


_BODIES: dict[int, Callable[[bytes], object]] = {
    Kind.HELLO: frames.decode_hello,
    Kind.WELCOME: frames.decode_welcome,
    Kind.KEY_OPERATION: frames.decode_key_operation,
    Kind.ERROR: frames.decode_error,
    Kind.CONTROL_REQUEST: frames.decode_control_request,
    Kind.DRAIN: frames.decode_drain,
}


def channel_target(data: bytes) -> None:
    """Both ends of a channel, before and after the greeting, and the bodies of the frames they accept."""
    channel: ServerChannel | ClientChannel = ClientChannel() if data[:1] > b"\x7f" else ServerChannel(3, 16)
    if data[:1] and data[0] & 1:
        channel.receive(WELCOME if isinstance(channel, ClientChannel) else HELLO)
    try:
        for piece in (data[1:40], data[40:41], data[41:]):
            for kind, _, body in channel.receive(piece):
                _body(kind, body)
    except (ProtocolError, VersionMismatch) as error:
        assert error.text
        assert channel.state is State.CLOSED or channel.receive(b"") == []


def _body(kind: int, body: bytes) -> None:
    decode = _BODIES.get(kind)
    if decode is not None:
        decode(body)
    if kind == Kind.CONTROL_REQUEST and len(body) > 4:
        request_target(body[4:])


def bodies_target(data: bytes) -> None:
    """Bodies of fixed layout; a decoded one must encode to the same bytes or value."""
    decode = list(_BODIES.values())[data[0] % len(_BODIES)] if data else frames.decode_hello
    body = data[1:]
    try:
        value = decode(body)
    except ProtocolError as error:
        assert error.text
        return
    if isinstance(value, frames.KeyOperation):
        assert frames.key_operation_body(*value) == body
    elif isinstance(value, HsmdError):
        again = frames.decode_error(frames.error_body(value))
        assert (type(again), again.code, again.text) == (type(value), value.code, value.text)


def request_target(data: bytes) -> None:
    """Control requests; a decoded one must survive encoding and decoding."""
    try:
        request = messages.decode_request(data)
    except BadRequest as error:
        assert error.text.startswith("control request: ")
        return
    assert messages.decode_request(messages.encode_request(request)) == request


def result_target(data: bytes) -> None:
    """Control results of every type."""
    result = messages.REQUESTS[data[0] % len(messages.REQUESTS)].Result if data else messages.Done
    try:
        messages.decode_result(data[1:], result)
    except ProtocolError as error:
        assert error.text.startswith("control result: ")


_SPKI = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
_SIGNER = Verifier.from_public_key("hsmd.statement/fra-1", _SPKI)
_CHECKS = [
    PurposeCheck(key_type, _SPKI.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for key_type in KeyType
]


def purposes_target(data: bytes) -> None:
    """The worker's purpose check, which passes or raises PurposeMismatch."""
    if len(data) < 4:
        return
    check = _CHECKS[data[0] % len(_CHECKS)]
    try:
        check.check(data[1], int.from_bytes(data[2:4], "big"), data[4:])
    except PurposeMismatch as error:
        assert error.text


def ceilings_target(data: bytes) -> None:
    """Ceilings in a token; one that is read and no more than version 1 or 2 holds is written again as it was."""
    ceiling = ceilings.parse(data)
    if ceiling is None:
        return
    again = ceilings.encode(ceiling.half, ceiling.cka_id, ceiling.purposes, ceiling.constraints)
    assert again == data or b'"version":1,' in again
    assert ceilings.parse(again) is not None


_ENVELOPES = golden()
_RECIPIENTS = {each.header.recipient: key for key, each, _ in _ENVELOPES}


def envelopes_target(data: bytes) -> None:
    """The first byte chooses what the rest is: an envelope, a header, canonical JSON, or what came out of an envelope."""
    part, rest = (data[0] % 4, data[1:]) if data else (0, b"")
    try:
        if part == 0:
            envelope = Envelope.decode(rest)
            assert envelope.encode() == rest
            if envelope.header.recipient in _RECIPIENTS:
                open_envelope(envelope, _RECIPIENTS[envelope.header.recipient])
        elif part == 1:
            assert Header.decode(rest).encode() == rest
        elif part == 2:
            assert canonical_json.encode(canonical_json.decode(rest)) == rest
        else:
            key = content.without_token_padding(rest)
            assert rest == key + bytes(len(rest) - len(key))
            content.spki_digest(key)
    except EnvelopeInvalid as error:
        assert error.text


_VAULT = vectors("vault/golden.json")


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "replace").split("\n")


def _texts_of_the_vault() -> dict[str, tuple[Callable[[bytes], object], list[bytes]]]:
    """What reads each kind of bytes and writes them again, and seeds."""
    keys, records = _VAULT["management_keys"], _VAULT["records"]
    spki = [ManagementKeyStatement.decode(each["text"].encode()) for each in keys]
    challenges = [bytes.fromhex(each["envelope"]) for each in _VAULT["proof"]["challenges"]]
    return {
        "management key": (
            lambda data: ManagementKeyStatement.decode(data).encode(),
            [each["text"].encode() for each in keys],
        ),
        "record": (
            lambda data: RecordStatement.decode(data).encode(),
            [each["text"].encode() for each in records],
        ),
        "public key": (lambda data: canonical_spki(data).der, [each.signing for each in spki]),
        "hybrid key": (
            lambda data: HybridPublicKey.from_spki(data).spki(),
            [each.wrapping for each in spki if each.suite is WrappingSuite.HYBRID],
        ),
        "challenge": (lambda data: checked_challenge(data, bytes(range(32))).encode(), challenges),
        "answer": (
            lambda data: "\n".join(Answer.from_lines(_lines(data)).lines()).encode(),
            ["\n".join(lines).encode() for lines in _VAULT["answers"]],
        ),
        "confirmation": (
            lambda data: "\n".join(Confirmation.from_lines(_lines(data)).lines()).encode(),
            ["\n".join(_VAULT["confirmation"]).encode()],
        ),
    }


_OF_THE_VAULT = _texts_of_the_vault()


def vault_target(data: bytes) -> None:
    """The first byte chooses what the rest is. What is accepted has one form, which is written again."""
    kinds = list(_OF_THE_VAULT)
    read, rest = _OF_THE_VAULT[kinds[data[0] % len(kinds) if data else 0]][0], data[1:]
    try:
        assert read(rest) == rest
    except EnvelopeInvalid as error:
        assert error.text


def statements_target(data: bytes) -> None:
    """Statements, endorsements and the texts that the worker signs; what one side accepts the other one does, too."""
    text = data.decode("utf-8", "surrogateescape")
    passes = not fault_of(data)
    try:
        assert statements.parse_text(text).text() == text
        assert passes
    except ProtocolError:
        assert not passes
    for parse in (endorsement.parse_text, lambda note: statements.verify(note, [_SIGNER])):
        try:
            parse(text)
        except (ProtocolError, ProofInvalid) as error:
            assert error.text


def rollover_target(data: bytes) -> None:
    """The first byte chooses: topology file, plan, or approval. What is accepted has one form, which is written again."""
    kind, rest = data[0] % 3 if data else 0, data[1:]
    try:
        if kind == 0:
            read = topology_file.parse(rest.decode("utf-8", "replace"), "x")
            assert topology_file.from_document(read.document, "x") == read
        elif kind == 1:
            assert plan_document.encode(plan_document.decode(rest)) == rest
        else:
            text = rest.decode("utf-8", "replace")
            assert approval.parse_text(text).text() == text
    except (TopologyInvalid, PlanInvalid, ProtocolError) as error:
        assert error.text


def _rollover_seeds() -> Iterator[bytes]:
    """A topology, its plans, and an approval."""
    shown = topology([("a", "b", True), ("b", "c", False)], nodes={"a": node("a", "b")}, by_hand=["c"])
    yield b"\0" + as_toml(shown).encode()
    for found in plans_of(shown):
        yield b"\1" + plan_document.encode(found)
    approved = approval.Approval("0" * 64, shown.digest, "2026-01-02T03:04:05.000006Z", "why")
    yield b"\2" + approved.text().encode()


def anchors_target(data: bytes) -> None:
    """The first byte chooses: PEM bundle, certs-only CMS, its body in EST, or an update, which a node takes only if it is genuine."""
    kind, rest = data[0] % 4 if data else 0, data[1:]
    try:
        if kind == 0:
            assert pem_bundle.parse(pem_bundle.encode(found := pem_bundle.parse(rest))) == found
        elif kind in (1, 2):
            found = certs_only.decode(rest) if kind == 1 else certs_only.decode_body(rest)
            assert set(certs_only.decode(certs_only.encode(found))) == set(found)
        else:
            update = RootUpdate.decode(rest)
            assert update.encode() == rest
            _take(update)
    except (CertificatesInvalid, UpdateRefused) as error:
        assert error.text


def _take(update: RootUpdate) -> None:
    taken = accept([anchors.OLD_WITH_OLD], update, anchors.NOW.replace(tzinfo=UTC))
    assert taken == anchors.NEW_WITH_NEW
    check_validity(update, anchors.OLD_WITH_OLD)


def _anchors_seeds() -> Iterator[bytes]:
    """The certificates of two generations in each form."""
    chosen = (anchors.OLD_WITH_OLD, anchors.NEW_WITH_OLD)
    yield b"\0" + pem_bundle.encode(chosen)
    yield b"\1" + certs_only.encode(chosen)
    yield b"\2" + certs_only.encode_body(chosen)
    yield b"\3" + anchors.UPDATE.encode()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames_target,
    "channel": channel_target,
    "bodies": bodies_target,
    "requests": request_target,
    "results": result_target,
    "purposes": purposes_target,
    "ceilings": ceilings_target,
    "statements": statements_target,
    "envelopes": envelopes_target,
    "vault": vault_target,
    "rollover": rollover_target,
    "anchors": anchors_target,
}


def seeds(target: str) -> Iterator[bytes]:
    """Initial inputs: the golden vectors, in the target's format."""
    if target == "ceilings":
        yield from _ceiling_seeds()
    elif target == "envelopes":
        for _, envelope, key in _ENVELOPES:
            yield b"\0" + envelope.encode()
            yield from (bytes([part]) + envelope.header.encode() for part in (1, 2))
            yield b"\3" + key
    elif target == "vault":
        for number, (_, examples) in enumerate(_OF_THE_VAULT.values()):
            yield from (bytes([number]) + each for each in examples)
    elif target == "statements":
        yield from _statement_seeds()
    elif target == "rollover":
        yield from _rollover_seeds()
    elif target == "anchors":
        yield from _anchors_seeds()
    elif target == "purposes":
        statement = b"hsmd.statement/v1 vault-answer\ndaemon fra-1\nkey 00ff\n"
        yield bytes([list(KeyType).index(KeyType.ED25519), Purpose.STATEMENT, 0x08, 0x07]) + statement
    order = list(_BODIES)
    for vector in json.loads(_VECTORS.read_text())["frames"]:
        wire, body, kind = (
            bytes.fromhex(vector["frame_hex"]),
            bytes.fromhex(vector["body_hex"]),
            vector["kind"],
        )
        if target == "frames":
            yield b"\x07" + wire
        elif target == "channel":
            yield from (bytes([end]) + wire for end in (0x00, 0x01, 0x80, 0x81))
        elif target == "bodies" and kind in order:
            yield bytes([order.index(kind)]) + body
        elif target == "purposes" and kind == Kind.KEY_OPERATION:
            yield from (bytes([key_type]) + body[4:7] + body[39:] for key_type in range(len(_CHECKS)))
    for number, request in enumerate(messages.REQUESTS):
        if target == "requests":
            yield msgspec.json.encode(sample(shapes.type_info(request)))
        elif target == "results":
            yield bytes([number]) + msgspec.json.encode(sample(shapes.type_info(request.Result)))


def _statement_seeds() -> Iterator[bytes]:
    """A statement as text and as a note, and an endorsement."""
    private = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    text = statements.Statement("vault-answer", "fra-1", ("key 00ff",)).text()
    yield text.encode()
    yield signed(text, _SIGNER, [private.sign(text.encode())]).render().encode()
    other = Verifier.from_public_key(
        "any", ed25519.Ed25519PrivateKey.from_private_bytes(b"1" * 32).public_key()
    )
    keys = map(endorsement.material_of, (_SIGNER, other))
    yield endorsement.Endorsement(*keys, "2026-01-02T03:04:05.000006Z", "why").text().encode()


def _ceiling_seeds() -> Iterator[bytes]:
    """Ceilings of both versions, and the class of keys that unwrap."""
    small = PublicHalf.from_spki(_SPKI.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    large = PublicHalf.of(rsa.RSAPublicNumbers(65537, (1 << 2047) + 1).public_key())
    assert small is not None and large is not None
    request = frozenset({Purpose.X509_REQUEST})
    yield ceilings.encode(small, b"\x01", expand(["tls-server"]))
    yield ceilings.encode(small, b"\x01", request, {Purpose.X509_REQUEST: {"names": ["example.org"]}})
    yield ceilings.encode(large, b"\x01", frozenset({Purpose.UNWRAP_KEY}))


def sample(shape: shapes.Type) -> object:
    """A JSON value of a message's type, as a starting point of mutations."""
    match shape:
        case shapes.StructType(tag_field=tag_field, tag=tag, fields=fields):
            document = {field.encode_name: sample(field.type) for field in fields}
            return {tag_field: tag} | document if tag_field else document
        case shapes.ListType(item_type=item):
            return [sample(item)]
        case shapes.DictType(value_type=value):
            return {"a": sample(value)}
        case shapes.UnionType(types=types):
            return sample(types[0])
        case shapes.IntType():
            return 1
        case shapes.BoolType():
            return True
        case shapes.DateTimeType():
            return "2026-01-02T03:04:05Z"
        case _:
            return "aaaa"
