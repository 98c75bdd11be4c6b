"""Near misses: changed valid forms are refused, and no bytes pass under two TLS purposes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given, settings, strategies as st

from hsmd.algorithms import SCHEMES, KeyType, schemes_for
from hsmd.errors import PurposeMismatch
from hsmd.purposes import TLS_SIGNING, Purpose, PurposeCheck, purpose_from_label

VALID = json.loads(
    (Path(__file__).resolve().parent.parent / "vectors" / "purposes" / "valid.json").read_text()
)
CHECKS = {name: PurposeCheck(KeyType(name), base64.b64decode(spki)) for name, spki in VALID["keys"].items()}
RECORDS = [
    (record["key"], purpose_from_label(record["purpose"]), record["scheme"], base64.b64decode(record["data"]))
    for record in VALID["records"]
]
TLS13_PREFIX_BYTES = 98
CURVES = {23: (ec.SECP256R1(), 65), 24: (ec.SECP384R1(), 97), 25: (ec.SECP521R1(), 133)}
EXTRA = 300 if settings().max_examples <= 100 else settings().max_examples


def of(*purposes: Purpose) -> st.SearchStrategy[tuple]:
    return st.sampled_from([record for record in RECORDS if record[1] in purposes])


def passes(key: str, purpose: int, scheme: int, data: bytes) -> bool:
    """Whether the check passes; any exception other than PurposeMismatch fails the test."""
    try:
        CHECKS[key].check(purpose, scheme, data)
    except PurposeMismatch:
        return False
    return True


@st.composite
def edits(draw: st.DrawFn, data: bytes) -> bytes:
    """One to three small changes: a byte replaced, removed or inserted, or a range removed or repeated."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        piece = draw(st.sampled_from(["replace", "drop", "insert", "cut", "double"]))
        byte = bytes([draw(st.integers(0, 255))])
        end = min(len(data), at + draw(st.integers(1, 40)))
        data = {
            "replace": data[:at] + byte + data[at + 1 :],
            "drop": data[:at] + data[at + 1 :],
            "insert": data[:at] + byte + data[at:],
            "cut": data[:at] + data[end:],
            "double": data[:end] + data[at:],
        }[piece]
    return data


@st.composite
def near_valid(draw: st.DrawFn) -> bytes:
    """A valid form as it is, edited, or continued with the end of another one."""
    data = draw(st.sampled_from(RECORDS))[3]
    how = draw(st.sampled_from(["as it is", "edited", "spliced"]))
    if how == "edited":
        return draw(edits(data))
    if how == "spliced":
        other = draw(st.sampled_from(RECORDS))[3]
        return data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]
    return data


@given(st.data(), of(Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT))
@settings(max_examples=EXTRA, deadline=None)
def test_any_change_before_the_hash_of_a_tls13_form_is_refused(choose, record):
    key, purpose, scheme, data = record
    at = choose.draw(st.integers(0, TLS13_PREFIX_BYTES - 1))
    byte = choose.draw(st.integers(0, 255).filter(lambda value: value != data[at]))
    assert not passes(key, purpose, scheme, data[:at] + bytes([byte]) + data[at + 1 :])


@given(st.data(), of(Purpose.TLS13_SERVER, Purpose.TLS13_CLIENT))
@settings(max_examples=EXTRA, deadline=None)
def test_an_edited_tls13_form_passes_only_with_the_exact_prefix_and_a_hash_length(choose, record):
    key, purpose, scheme, data = record
    edited = choose.draw(edits(data))
    exact = edited[:TLS13_PREFIX_BYTES] == data[:TLS13_PREFIX_BYTES] and len(edited) - TLS13_PREFIX_BYTES in (
        32,
        48,
    )
    assert passes(key, purpose, scheme, edited) == exact


@given(st.binary(min_size=64, max_size=64), st.sampled_from(list(CURVES)), st.integers(1, 2**250), st.data())
@settings(max_examples=EXTRA, deadline=None)
def test_tls12_points_are_checked_as_by_another_implementation(randoms, code, scalar, choose):
    curve, size = CURVES[code]
    numbers = ec.derive_private_key(scalar, curve).public_key().public_numbers()
    width = (size - 1) // 2
    point = b"\4" + numbers.x.to_bytes(width) + numbers.y.to_bytes(width)
    if choose.draw(st.booleans()):
        at = choose.draw(st.integers(0, size - 1))
        point = point[:at] + bytes([choose.draw(st.integers(0, 255))]) + point[at + 1 :]
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
        good = True
    except ValueError:
        good = False
    # Randoms that can be read as another format have separate tests.
    data = b"\xa5" * 32 + hashlib.sha256(randoms).digest() + b"\3" + code.to_bytes(2) + bytes([size]) + point
    assert passes("p-256", Purpose.TLS12_SERVER, 0x0403, data) == good


@given(st.data(), of(Purpose.TLS12_SERVER))
@settings(max_examples=EXTRA, deadline=None)
def test_no_change_of_length_of_a_tls12_server_form_passes(choose, record):
    key, purpose, scheme, data = record
    edited = choose.draw(edits(data))
    if len(edited) != len(data) or edited[64:68] != data[64:68]:
        assert not passes(key, purpose, scheme, edited)


@pytest.mark.parametrize("record", [record for record in RECORDS if record[1] is Purpose.TLS12_CLIENT])
def test_no_byte_can_be_dropped_from_a_transcript(record):
    key, purpose, scheme, data = record
    assert not [at for at in range(len(data)) if passes(key, purpose, scheme, data[:at] + data[at + 1 :])]


@given(st.data(), of(Purpose.TLS12_CLIENT))
@settings(max_examples=EXTRA, deadline=None)
def test_no_byte_can_be_inserted_into_a_transcript(choose, record):
    key, purpose, scheme, data = record
    at = choose.draw(st.integers(0, len(data)))
    byte = bytes([choose.draw(st.integers(0, 255))])
    assert not passes(key, purpose, scheme, data[:at] + byte + data[at:])


@given(st.data(), of(Purpose.TLS12_CLIENT, Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED))
@settings(max_examples=EXTRA, deadline=None)
def test_forms_that_name_a_key_pass_only_with_that_key(choose, record):
    key, purpose, scheme, data = record
    edited = choose.draw(edits(data))
    spki = base64.b64decode(VALID["keys"][key])
    if passes(key, purpose, scheme, edited):
        assert spki in edited


@given(st.one_of(st.binary(max_size=300), near_valid()), st.sampled_from(sorted(CHECKS)))
@settings(max_examples=EXTRA, deadline=None)
def test_no_bytes_pass_under_two_purposes_that_bind_them(data, key):
    bound = [*TLS_SIGNING, Purpose.X509_REQUEST, Purpose.X509_SELF_SIGNED, Purpose.CHECKPOINT]
    schemes = schemes_for(KeyType(key))
    accepting = {
        purpose for purpose in bound if any(passes(key, purpose, scheme, data) for scheme in schemes)
    }
    assert len(accepting) <= 1


@given(
    st.integers(-1, 300),
    st.integers(-1, 70_000),
    st.one_of(st.binary(max_size=200), near_valid()),
    st.sampled_from(list(CHECKS)),
)
@settings(max_examples=EXTRA, deadline=None)
@example(1, 0x0403, b"", "p-256")
def test_nothing_but_a_purpose_mismatch_is_ever_raised(purpose, scheme, data, key):
    passes(key, purpose, scheme, data)
    for known in Purpose:
        for real in (0, *SCHEMES):
            passes(key, known, real, data)
