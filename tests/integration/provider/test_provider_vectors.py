"""The golden vectors, and the C code checked against them: frames, reference files, purposes, schemes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.support.fake_agent import ERROR, WELCOME_BODY, error_body, frame
from tests.support.provider_reference import pem, reference_der, tlv

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "protocol.json").read_text())
FRAMES = {vector["name"]: vector for vector in VECTORS["frames"]}
ALGORITHMS = {"RSA-2048": "0", "RSA-3072": "0", "P-256": "1", "P-384": "1", "P-521": "1", "Ed25519": "2"}
WELCOME_FRAME = frame(2, 0, WELCOME_BODY)
HELLO = FRAMES["hello without capabilities"]["frame_hex"]

Driver = Callable[[Sequence[str]], list[str]]


def by_kind(kind: int) -> list[dict[str, Any]]:
    return [vector for vector in VECTORS["frames"] if vector["kind"] == kind]


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["name"])
def test_frames_match_the_documentation(vector: dict[str, Any]) -> None:
    built = frame(vector["kind"], vector["id"], bytes.fromhex(vector["body_hex"]))
    assert built.hex() == vector["frame_hex"]


def test_c_builds_key_operations(core_driver: Driver) -> None:
    """hello and key operation in one write; the C code's request id is always 1."""
    vectors = [vector for vector in by_kind(0x10) if vector["id"] == 1]
    assert len(vectors) >= 5
    commands = []
    for vector in vectors:
        fields = vector["fields"]
        numbers = f"{fields['deadline_ms']} {fields['purpose']} {fields['scheme']}"
        commands.append(f"head {numbers} {fields['key_hex']} {fields['data_hex'] or '-'}")
    for vector, head in zip(vectors, core_driver(commands), strict=True):
        assert head + vector["fields"]["data_hex"] == HELLO + vector["frame_hex"]


def test_c_names_the_purpose_of_golden_data(core_driver: Driver) -> None:
    vectors = [vector["fields"] for vector in by_kind(0x10) if vector["fields"]["purpose"] != 5]
    answers = core_driver([f"purpose {fields['data_hex'] or '-'}" for fields in vectors])
    assert answers == [str(fields["purpose"]) for fields in vectors]


CERTIFICATE_VERIFY = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32)
KEY_EXCHANGE = bytes(64) + b"\3\0\x1d\x20" + bytes(32)
TRANSCRIPT = b"\1\0\0\x05hello\2\0\0\0"


@pytest.mark.parametrize(
    ("data", "purpose"),
    [
        (CERTIFICATE_VERIFY, 1),
        (CERTIFICATE_VERIFY + bytes(32), 1),
        (CERTIFICATE_VERIFY + b"\0", 8),
        (CERTIFICATE_VERIFY[:-1], 8),
        (CERTIFICATE_VERIFY[1:] + b"\0", 8),
        (CERTIFICATE_VERIFY.replace(b"server Cert", b"server cert"), 8),
        (b" " * 64 + b"TLS, server delegated credentials\0" + bytes(32), 8),
        (KEY_EXCHANGE, 3),
        (KEY_EXCHANGE + b"\0", 8),
        (KEY_EXCHANGE[:-1], 8),
        (bytes(64) + b"\1\0\x1d\x20" + bytes(32), 8),
        (b"\1\0\0\1" + KEY_EXCHANGE[4:], 3),
        (TRANSCRIPT, 4),
        (TRANSCRIPT[:9], 8),
        (b"\1\1" + TRANSCRIPT[2:], 8),
        (b"\1\0\0", 8),
        (b"", 8),
        (bytes.fromhex("30820100") + bytes(256), 8),
    ],
)
def test_c_distinguishes_purposes(core_driver: Driver, data: bytes, purpose: int) -> None:
    assert core_driver([f"purpose {data.hex() or '-'}"]) == [str(purpose)]


def exchange(core_driver: Driver, stream: bytes, capacity: int = 1024) -> str:
    return core_driver([f"exchange {capacity} {stream.hex() or '-'}"])[0]


def test_c_reads_results_and_errors(core_driver: Driver) -> None:
    """Every golden welcome and answer that can belong to request 1."""
    for welcome in by_kind(2):
        for vector in by_kind(0x11) + by_kind(0x12):
            if vector["id"] > 1:
                continue
            outcome = exchange(core_driver, bytes.fromhex(welcome["frame_hex"] + vector["frame_hex"]))
            if vector["kind"] == 0x11:
                assert outcome == f"ok {vector['fields']['answer_hex']}"
            else:
                text = "".join(
                    c if " " <= c <= "~" else "?" * len(c.encode()) for c in vector["fields"]["text"]
                )
                assert outcome.startswith("fail ")
                assert outcome.endswith(f" {text} (agent's error {vector['fields']['code']})")


def test_c_skips_optional_frames(core_driver: Driver) -> None:
    small_talk = [FRAMES[name]["frame_hex"] for name in ("drain", "event", "event")]
    stream = (
        WELCOME_FRAME
        + bytes.fromhex("".join(small_talk))
        + frame(0xEE, 5, bytes(100_000))
        + frame(0x11, 1, b"x")
    )
    assert exchange(core_driver, stream) == "ok 78"


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", 3),
        (WELCOME_FRAME, 3),
        (WELCOME_FRAME + frame(0x11, 1, bytes(64))[:-1], 3),
        (frame(0x11, 1, bytes(64)), 4),
        (frame(2, 1, WELCOME_BODY), 4),
        (frame(2, 0, WELCOME_BODY + b"\0"), 4),
        (frame(2, 0, b"\2" + WELCOME_BODY[1:]), 4),
        (frame(ERROR, 0, error_body(2, b"no common version")), 4),
        (WELCOME_FRAME + struct.pack(">IBQ", 8, 0x11, 1), 4),
        (WELCOME_FRAME + struct.pack(">IBQ", 1_048_577, 0xF0, 1), 4),
        (WELCOME_FRAME + frame(0x11, 2, bytes(64)), 4),
        (WELCOME_FRAME + frame(0x14, 1), 4),
        (WELCOME_FRAME + frame(0x21, 1, b"{}"), 4),
        (WELCOME_FRAME + frame(ERROR, 2, error_body(10, b"")), 4),
        (WELCOME_FRAME + frame(ERROR, 1, b"\0\x0a\0\0\0"), 4),
        (WELCOME_FRAME + frame(ERROR, 1, error_body(10, bytes(513))), 4),
        (WELCOME_FRAME + frame(0x30, 0, b"\0"), 4),
        (WELCOME_FRAME + frame(0x11, 1, bytes(1025)), 5),
    ],
)
def test_c_refuses_everything_else(core_driver: Driver, stream: bytes, reason: int) -> None:
    assert exchange(core_driver, stream).startswith(f"fail {reason} ")


@pytest.mark.parametrize("code", [10, 11, 20, 21, 23, 30, 31, 32, 40])
def test_each_error_has_its_reason(core_driver: Driver, code: int) -> None:
    """The provider's reason numbers equal the protocol's codes with the same meaning."""
    outcome = exchange(core_driver, WELCOME_FRAME + frame(ERROR, 1, error_body(code, b"why")))
    assert outcome == f"fail {code} why (agent's error {code})"


def test_texts_for_log_files_hold_no_control_characters(core_driver: Driver) -> None:
    outcome = exchange(
        core_driver, WELCOME_FRAME + frame(ERROR, 1, error_body(10, b"a\nb\x1b[31m\xc2\x9bc\0d%s"))
    )
    assert outcome == "fail 10 a?b?[31m??c?d%s (agent's error 10)"


@pytest.mark.parametrize("vector", VECTORS["references"], ids=lambda vector: vector["name"])
def test_c_parses_references(core_driver: Driver, vector: dict[str, Any]) -> None:
    pem_hex = vector["pem"].encode().hex()
    found = core_driver([f"pem {piece} {pem_hex}" for piece in (255, 40)])
    assert found[0] == found[1]
    der = found[0].removeprefix("ok ") if found[0].startswith("ok ") else None
    if vector["der_hex"] and der is not None:
        assert der == vector["der_hex"]
    (outcome,) = core_driver([f"der {der}"]) if der is not None else ("bad PEM",)
    assert outcome.startswith("ok " if vector["ok"] else "bad "), outcome
    if vector["ok"]:
        fields = vector["fields"]
        _, name, key, kind, *_ = outcome.split()
        assert bytes.fromhex(name).decode() == fields["name"]
        assert key == fields["key_hex"] == hashlib.sha256(bytes.fromhex(fields["public_key_hex"])).hexdigest()
        assert kind == ALGORITHMS[fields["algorithm"]]


def test_the_size_of_references_is_limited(core_driver: Driver) -> None:
    info = bytes.fromhex(VECTORS["references"][0]["fields"]["public_key_hex"])
    fitting = reference_der(info) + bytes(8192 - len(reference_der(info)))
    outcomes = core_driver([f"pem 255 {pem(der).encode().hex()}" for der in (fitting, fitting + b"\0")])
    assert outcomes == [f"ok {fitting.hex()}", "bad longer than 8192 bytes"]


def test_only_the_first_block_is_read(core_driver: Driver) -> None:
    reference = next(vector for vector in VECTORS["references"] if vector["ok"])
    foreign = pem(b"other", label="CERTIFICATE")
    texts = [
        foreign + reference["pem"],
        "junk\n-----END CERTIFICATE-----\n" + reference["pem"] + foreign,
        pem(bytes.fromhex(reference["der_hex"]), width=0),
        "x -----BEGIN HSMD KEY REFERENCE-----\n",
        "",
    ]
    outcomes = core_driver([f"pem 255 {text.encode().hex() or '-'}" for text in texts])
    assert outcomes == ["none", f"ok {reference['der_hex']}", f"ok {reference['der_hex']}", "none", "none"]


@pytest.mark.parametrize(
    ("arguments", "scheme"),
    [
        ("0 SHA256 0", 0x0401),
        ("0 sha2-384 0", 0x0501),
        ("0 SHA-512 0", 0x0601),
        ("0 SHA256 1", 0x0804),
        ("0 SHA384 1", 0x0805),
        ("0 SHA512 1", 0x0806),
        ("1 SHA256 0", 0x0403),
        ("1 SHA2-384 0", 0x0503),
        ("1 SHA512 0", 0x0603),
        ("2 - 0", 0x0807),
    ],
)
def test_schemes_and_algorithm_identifiers(core_driver: Driver, arguments: str, scheme: int) -> None:
    """The provider's AlgorithmIdentifier is that of a real signature of this kind, as another library parses it."""
    (answer,) = core_driver([f"scheme {arguments}"])
    code, identifier = answer.split()
    assert int(code) == scheme
    assert x509_algorithm(bytes.fromhex(identifier)) == EXPECTED_ALGORITHMS[scheme]


EXPECTED_ALGORITHMS: dict[int, tuple[str, int]] = {
    0x0401: ("sha256WithRSAEncryption", 0),
    0x0501: ("sha384WithRSAEncryption", 0),
    0x0601: ("sha512WithRSAEncryption", 0),
    0x0804: ("rsassaPss", 32),
    0x0805: ("rsassaPss", 48),
    0x0806: ("rsassaPss", 64),
    0x0403: ("ecdsa-with-SHA256", 0),
    0x0503: ("ecdsa-with-SHA384", 0),
    0x0603: ("ecdsa-with-SHA512", 0),
    0x0807: ("ed25519", 0),
}


def x509_algorithm(identifier: bytes) -> tuple[str, int]:
    """Name and PSS salt length, parsed from a certificate request with the identifier."""
    parsed = x509.load_der_x509_csr(_request_around(identifier))
    parameters = parsed.signature_algorithm_parameters
    salt = 0
    if isinstance(parameters, padding.PSS):
        assert isinstance(parsed.signature_hash_algorithm, hashes.HashAlgorithm)
        assert parameters.mgf._algorithm.name == parsed.signature_hash_algorithm.name
        salt = int(parameters._salt_length)  # type: ignore[arg-type]
        assert salt == parsed.signature_hash_algorithm.digest_size
    return parsed.signature_algorithm_oid._name, salt


def _request_around(identifier: bytes) -> bytes:
    info = bytes.fromhex(next(v for v in VECTORS["references"] if v["ok"])["fields"]["public_key_hex"])
    body = tlv(0x30, b"\2\1\0" + tlv(0x30, b"") + info + b"\xa0\0")
    return tlv(0x30, body + identifier + tlv(3, bytes(9)))


@pytest.mark.parametrize(
    ("der", "accepted"),
    [
        ("3006020101020101", 1),
        ("30080202008002020080", 1),
        ("3006020180020101", 0),
        ("3006020100020101", 0),
        ("300702020001020101", 0),
        ("300602010102010100", 0),
        ("3009020101020101020101", 0),
        ("3003020101", 0),
        ("", 0),
        ("00" * 72, 0),
    ],
)
def test_shape_of_ecdsa_signatures(core_driver: Driver, der: str, accepted: int) -> None:
    assert core_driver([f"ecdsa {der or '-'}"]) == [str(accepted)]
