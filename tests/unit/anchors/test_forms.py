"""PEM bundles, certs-only CMS and CMP's RootCaKeyUpdateContent: one encoding, strict readers, and what other software says."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asn1crypto import core, x509 as other_x509
from cryptography import x509
from hypothesis import given, strategies as st

from hsmd.anchors import certificates, certs_only, pem_bundle, root_update
from hsmd.anchors.certificates import MAX_BYTES, MAX_CERTIFICATES, der
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate, check_validity
from tests.support.anchors import (
    NEW,
    NEW_WITH_NEW,
    NEW_WITH_OLD,
    OLD,
    OLD_WITH_NEW,
    OLD_WITH_OLD,
    OTHER,
    UPDATE,
    certificate,
)
from tests.support.der import sequence, tlv
from tests.support.mutations import cuts_and_extensions, single_byte_changes

VECTORS = Path(__file__).parents[2] / "vectors" / "anchors"
ALL = (OLD_WITH_OLD, NEW_WITH_NEW, NEW_WITH_OLD, OLD_WITH_NEW)
PEM = pem_bundle.encode(ALL)
CMS = certs_only.encode(ALL)
CONTENT = UPDATE.encode()
LISTS = st.lists(st.sampled_from(ALL), min_size=1, unique=True)
Decode = Callable[[bytes], Any]


def refusal(decode: Decode, data: bytes) -> str:
    with pytest.raises(CertificatesInvalid) as refused:
        decode(data)
    return refused.value.text


def run(*command: str, data: bytes) -> str:
    """The output of other software, which must accept `data`."""
    done = subprocess.run(command, input=data, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


# --- golden vectors ---


@pytest.mark.parametrize(
    ("file", "encoded", "decode"),
    [
        ("generations.pem", PEM, pem_bundle.parse),
        ("cacerts.b64", certs_only.encode_body(ALL), certs_only.decode_body),
        ("update.der", CONTENT, RootUpdate.decode),
    ],
)
def test_encodings_do_not_change(file: str, encoded: bytes, decode: Decode) -> None:
    golden = (VECTORS / file).read_bytes()
    assert encoded == golden
    assert decode(golden) in (ALL, UPDATE) or set(decode(golden)) == set(ALL)


def test_an_update_is_what_the_module_of_the_rfc_says() -> None:
    """By hand: SEQUENCE (30), the certificate as it is, and the others whole inside the explicit tags A0 and A1."""
    new, link, back = map(der, (NEW_WITH_NEW, NEW_WITH_OLD, OLD_WITH_NEW))
    assert sequence(new, tlv(0xA0, link), tlv(0xA1, back)) == CONTENT
    assert RootUpdate(NEW_WITH_NEW).encode() == sequence(new)
    assert RootUpdate(NEW_WITH_NEW, None, OLD_WITH_NEW).encode() == sequence(new, tlv(0xA1, back))


# --- other software ---


class _Content(core.Sequence):  # type: ignore[misc]
    """The type, for an independent reader."""

    _fields = [  # noqa: RUF012
        ("new_with_new", other_x509.Certificate),
        ("new_with_old", other_x509.Certificate, {"explicit": 0, "optional": True}),
        ("old_with_new", other_x509.Certificate, {"explicit": 1, "optional": True}),
    ]


def test_an_independent_reader_finds_the_same_update() -> None:
    read = _Content.load(CONTENT, strict=True)
    found = [read[field].untag().dump() for field in ("new_with_new", "new_with_old", "old_with_new")]
    assert found == [der(each) for each in (NEW_WITH_NEW, NEW_WITH_OLD, OLD_WITH_NEW)]
    again = _Content({"new_with_new": other_x509.Certificate.load(found[0])}).dump()
    assert RootUpdate.decode(again) == RootUpdate(NEW_WITH_NEW)


def test_openssl_and_gnutls_read_certs_only_messages() -> None:
    printed = run("openssl", "pkcs7", "-inform", "DER", "-print_certs", data=CMS)
    assert set(x509.load_pem_x509_certificates(printed.encode())) == set(ALL)
    printed = run("certtool", "--p7-info", "--inder", data=CMS)
    assert f"Number of certificates: {len(ALL)}" in printed


def test_what_openssl_makes_is_read(tmp_path: Path) -> None:
    (tmp_path / "all.pem").write_bytes(PEM)
    command = ["openssl", "crl2pkcs7", "-nocrl", "-certfile", str(tmp_path / "all.pem"), "-outform", "DER"]
    made = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    assert set(certs_only.decode(made)) == set(ALL)


def test_openssl_reads_bundles(tmp_path: Path) -> None:
    bundle = tmp_path / "all.pem"
    bundle.write_bytes(PEM)
    printed = run("openssl", "crl2pkcs7", "-nocrl", "-certfile", str(bundle), "-outform", "PEM", data=b"")
    assert "BEGIN PKCS7" in printed


# --- round trips ---


@given(LISTS)
def test_lists_are_read_as_they_were_written(chosen: list[x509.Certificate]) -> None:
    assert pem_bundle.parse(pem_bundle.encode(chosen)) == tuple(chosen)
    assert set(certs_only.decode(certs_only.encode(chosen))) == set(chosen)
    assert certs_only.encode(chosen) == certs_only.encode(chosen[::-1])
    assert set(certs_only.decode_body(certs_only.encode_body(chosen))) == set(chosen)


@pytest.mark.parametrize("link", [None, NEW_WITH_OLD])
@pytest.mark.parametrize("back", [None, OLD_WITH_NEW])
def test_updates_are_read_as_they_were_written(link: Any, back: Any) -> None:
    update = RootUpdate(NEW_WITH_NEW, link, back)
    assert RootUpdate.decode(update.encode()) == update


def test_line_ends_and_empty_lines_are_no_difference() -> None:
    loose = b"\n" + PEM.replace(b"\n", b"\r\n").replace(b"-----BEGIN", b"\r\n \n-----BEGIN") + b"\n\n"
    assert pem_bundle.parse(loose) == ALL
    assert pem_bundle.parse(PEM.rstrip()) == ALL


# --- hostile bytes ---


def decoded(decode: Decode, data: bytes) -> Any:
    """The value, or None for the declared error."""
    try:
        return decode(data)
    except CertificatesInvalid:
        return None


@pytest.mark.parametrize(
    ("decode", "encode", "data"),
    [
        (certs_only.decode, certs_only.encode, certs_only.encode(ALL[:2])),
        (RootUpdate.decode, RootUpdate.encode, RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD).encode()),
    ],
)
def test_altered_bytes_give_the_declared_error_or_another_value(
    decode: Decode, encode: Any, data: bytes
) -> None:
    for altered in single_byte_changes(data):
        found = decoded(decode, altered)
        assert found != decode(data)
        assert found is None or decode(encode(found))
    assert not any(decoded(decode, altered) for altered in cuts_and_extensions(data))


def test_altered_bytes_of_a_bundle_give_the_declared_error_or_another_value() -> None:
    bundle = pem_bundle.encode(ALL[:1])
    for altered in single_byte_changes(bundle):
        assert decoded(pem_bundle.parse, altered) != ALL[:1] or altered.split() == bundle.split()
    for altered in cuts_and_extensions(bundle):
        found = decoded(pem_bundle.parse, altered)
        assert found is None or altered.split() == bundle.split()


@given(st.binary(max_size=300))
def test_any_bytes_give_the_declared_error(data: bytes) -> None:
    for decode in (pem_bundle.parse, certs_only.decode, certs_only.decode_body, RootUpdate.decode):
        refusal(decode, data)


BLOCK = pem_bundle.encode([OLD_WITH_OLD])
LINE = BLOCK.splitlines()[1]


@pytest.mark.parametrize(
    ("pem", "fault"),
    [
        (b"", "contains no certificate"),
        (BLOCK + b"# comment\n", "block 2: give only blocks"),
        (BLOCK + b"x" + BLOCK, "block 2: give only blocks"),
        (BLOCK + BLOCK, "certificates 1 and 2 are the same"),
        (BLOCK + BLOCK.replace(b"CERTIFICATE", b"PRIVATE KEY"), "block 2 is a private key"),
        (BLOCK + BLOCK.replace(b"CERTIFICATE", b"X509 CRL"), "block 2 is a X509 CRL"),
        (BLOCK + BLOCK.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"), "block 2 is a TRUSTED CERTIFICATE"),
        (BLOCK + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "block 2 is not valid base64"),
        (BLOCK.replace(LINE, b"=" + LINE[1:]), "block 1 is not valid base64"),
        (BLOCK.replace(LINE, b"AAAA"), "certificate 1: not an X.509 certificate"),
        (BLOCK.replace(LINE, LINE + b" "), "block 1: give only blocks"),
        (b"\n" * (MAX_BYTES + 1), f"at most {MAX_BYTES} bytes"),
    ],
)
def test_a_bundle_holds_certificates_and_nothing_else(pem: bytes, fault: str) -> None:
    assert fault in refusal(pem_bundle.parse, pem)


def test_bits_that_mean_nothing_are_refused() -> None:
    """Base64 leaves bits over; readers that ignore them take many texts for one certificate."""
    padded = next(
        each
        for number in range(1, 9)
        for each in [pem_bundle.encode([certificate(OLD, OLD, serial=1 << 8 * number)])]
        if each.count(b"=") == 1
    )
    last = padded.rindex(b"=\n") - 1
    symbols = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    altered = padded[:last] + symbols[symbols.index(padded[last]) + 1 :][:1] + padded[last + 1 :]
    assert "block 1 is not valid base64" in refusal(pem_bundle.parse, altered)


def test_certificates_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pem_bundle, "MAX_CERTIFICATES", 3)
    monkeypatch.setattr(certs_only, "MAX_CERTIFICATES", 3)
    for decode, data in ((pem_bundle.parse, PEM), (certs_only.decode, CMS)):
        assert f"at most {MAX_CERTIFICATES} certificates" in refusal(decode, data)


def test_a_large_certificate_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "MAX_CERTIFICATE_BYTES", len(der(OLD_WITH_OLD)) - 1)
    assert "certificate 1 has more than" in refusal(pem_bundle.parse, BLOCK)


@pytest.mark.parametrize("encode", [pem_bundle.encode, certs_only.encode])
def test_no_list_is_not_written(encode: Any) -> None:
    for chosen in ((), (OLD_WITH_OLD, OLD_WITH_OLD)):
        with pytest.raises(CertificatesInvalid):
            encode(chosen)


OID = {
    word: bytes.fromhex("06092a864886f70d0107" + last) for word, last in (("data", "01"), ("signed", "02"))
}


def message(
    *,
    kind: str = "signed",
    version: bytes = b"\x01",
    digests: bytes = b"",
    content: bytes = b"",
    after: bytes = b"\x31\0",
) -> bytes:
    """A message by hand; `after` is what follows the certificates."""
    members = [
        tlv(0x02, version),
        tlv(0x31, digests),
        sequence(OID["data"], content),
        tlv(0xA0, der(OLD_WITH_OLD)),
        after,
    ]
    return sequence(OID[kind], tlv(0xA0, sequence(*members)))


def test_a_message_by_hand_is_what_the_library_writes() -> None:
    assert certs_only.encode([OLD_WITH_OLD]) == message()
    assert certs_only.decode(message(after=b"\xa1\0\x31\0")) == (OLD_WITH_OLD,)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (message(kind="data"), "another type than SignedData"),
        (message(version=b"\x03"), "version 1"),
        (message(digests=sequence(OID["data"])), "it is signed"),
        (message(content=tlv(0xA0, tlv(0x04, b"x"))), "it has content"),
        (message(after=tlv(0xA1, sequence()) + b"\x31\0"), "it has revocation lists"),
        (message(after=tlv(0x31, sequence())), "it is signed"),
        (message(after=b"\x31\0\x31\0"), "bytes where none may follow"),
        (message() + b"\0", "bytes where none may follow"),
        (b"\x30\x80" + message()[4:] + b"\0\0", "unusable ASN.1 length"),
    ],
)
def test_a_message_holds_certificates_and_nothing_else(data: bytes, fault: str) -> None:
    assert fault in refusal(certs_only.decode, data)
    assert fault in refusal(certs_only.decode_body, base64.encodebytes(data))


@pytest.mark.parametrize(
    "data",
    [
        sequence(),
        sequence(tlv(0xA0, der(NEW_WITH_OLD))),
        sequence(der(NEW_WITH_NEW), tlv(0xA1, der(OLD_WITH_NEW)), tlv(0xA0, der(NEW_WITH_OLD))),
        sequence(der(NEW_WITH_NEW), tlv(0xA0, der(NEW_WITH_OLD)), tlv(0xA0, der(NEW_WITH_OLD))),
        sequence(der(NEW_WITH_NEW), tlv(0xA0, der(NEW_WITH_OLD), der(NEW_WITH_OLD))),
        sequence(der(NEW_WITH_NEW), b"\xa0" + der(NEW_WITH_OLD)[1:]),  # an implicit tag
        sequence(der(NEW_WITH_NEW), tlv(0xA2, der(NEW_WITH_OLD))),
        b"\0" * (MAX_BYTES + 1),
    ],
)
def test_an_update_has_one_form(data: bytes) -> None:
    assert refusal(RootUpdate.decode, data).startswith("root CA key update: ")


# --- dates of updates that a CA makes ---


def test_dates_of_the_rfc_are_accepted() -> None:
    check_validity(UPDATE, OLD_WITH_OLD)
    check_validity(RootUpdate(NEW_WITH_NEW), OLD_WITH_OLD)


@pytest.mark.parametrize(
    ("update", "fault"),
    [
        (RootUpdate(certificate(NEW, NEW, begins=100, ends=900)), "newWithNew begins when"),
        (RootUpdate(NEW_WITH_NEW, certificate(NEW, OLD, begins=-9)), "does not begin with newWithNew"),
        (RootUpdate(NEW_WITH_NEW, certificate(NEW, OLD, begins=-11)), "does not begin with newWithNew"),
        (RootUpdate(NEW_WITH_NEW, certificate(NEW, OLD, ends=101)), "newWithOld ends after"),
        (
            RootUpdate(NEW_WITH_NEW, None, certificate(OLD, NEW, begins=-900, ends=99)),
            "oldWithNew has other dates",
        ),
        (RootUpdate(NEW_WITH_NEW, None, certificate(OLD, NEW, begins=-899)), "oldWithNew has other dates"),
    ],
)
def test_other_dates_are_refused(update: RootUpdate, fault: str) -> None:
    with pytest.raises(UpdateRefused, match=fault):
        root_update.check_validity(update, OLD_WITH_OLD)


def test_keys_of_the_fixture_differ() -> None:
    assert len({each.private_bytes_raw() for each in (OLD, NEW, OTHER)}) == 3
