"""What an authority's key signs: within its constraints, and nothing that a front could make up besides."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hsmd.algorithms import KeyType, SignatureScheme
from hsmd.errors import PurposeMismatch
from hsmd.purposes import AuthorityConstraints, Beside, NameSet, Purpose, PurposeCheck, asn1
from hsmd.purposes.asn1 import DerReader
from hsmd.purposes.authority_check import NAME_CONSTRAINTS
from tests.support import der
from tests.support.hostile_certificates import (
    LEAF_KEY,
    NEXT_KEY,
    OTHER_KEY,
    Asked,
    constraints,
    named,
    spki_of,
)
from tests.support.mutations import cuts_and_extensions, single_byte_changes

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SCHEME = SignatureScheme.ECDSA_SHA256
SPKI = spki_of(ec.generate_private_key(ec.SECP256R1()))
ASKED = Asked(SPKI, SCHEME, NOW)
HONEST = ASKED.honest()
HOSTILE = dict(ASKED.hostile())
LATER = AuthorityConstraints.of(
    name=named("Example authority 2"), profiles=["server"],
    permitted=NameSet.of("permitted", ["shop.example.com"]), excluded=NameSet.of("excluded", ["secret.example.com"]),
    path_length=0, leaf_s=86_400, authority_s=86_400 * 365,
)  # fmt: skip


OTHER, THIRD = (hashlib.sha256(spki_of(key)).digest() for key in (OTHER_KEY, LEAF_KEY))
"""Digests of a key that may be an authority's in the token, and of one that this one may commit to."""


def nothing(digest: bytes) -> None:
    """No key is an authority's."""


def checking(
    other: AuthorityConstraints | None = None,
    third: AuthorityConstraints | None = None,
    reserve: AuthorityConstraints | None = None,
    **changes: Any,
) -> PurposeCheck:
    """`other` and `third` are the ceilings of those keys, `reserve` marks the third one, or the next key."""
    reserves = {THIRD: reserve, bytes.fromhex(constraints().next_key): reserve}
    beside = Beside({OTHER: other, THIRD: third}.get, reserves.get, NOW.timestamp)
    document = {Purpose.X509_AUTHORITY: constraints(**changes).document()}
    return PurposeCheck(KeyType.P256, SPKI, document, beside)


def passes(data: bytes, scheme: SignatureScheme = SCHEME, **arguments: Any) -> bool:
    """Whether the key may sign; any other exception than the declared one is an error of the test."""
    try:
        checking(**arguments).check(Purpose.X509_AUTHORITY, scheme, data)
    except PurposeMismatch:
        return False
    return True


@pytest.mark.parametrize("what", HONEST)
def test_what_an_authority_issues_is_signed(what: str) -> None:
    checking().check(Purpose.X509_AUTHORITY, SCHEME, HONEST[what])


@pytest.mark.parametrize("what", HOSTILE)
def test_anything_else_is_refused(what: str) -> None:
    assert not passes(HOSTILE[what])


@pytest.mark.parametrize("what", set(HONEST) - {"a request"})
def test_the_algorithm_in_it_is_the_one_that_signs(what: str) -> None:
    assert not passes(HONEST[what], SignatureScheme.ECDSA_SHA384)


def test_an_authority_in_the_same_token_is_certified_if_its_ceiling_permits_no_more() -> None:
    link = ASKED.link(OTHER_KEY)
    assert not passes(link)
    assert passes(link, other=LATER)
    assert not passes(ASKED.link(OTHER_KEY, subject=named("Example authority 3")), other=LATER)
    for wider in (
        {"permitted": NameSet.of("permitted", ["shop.example.com", "example.net"])},
        {"permitted": NameSet.of("permitted", ["*"])},
        {"permitted": NameSet.of("permitted", ip=["192.0.0.0/16"])},
        {"permitted": NameSet.of("permitted", email=[".example.com"])},
        {"excluded": NameSet()},
        {"profiles": ["server", "server-client"]},
        {"common_names": ["bob"]},
        {"common_names": ["*"]},
        {"path_length": 2},
        {"leaf_s": 91 * 86_400},
        {"authority_s": 4_000 * 86_400},
    ):
        assert not passes(link, other=_with(LATER, wider)), wider


def _with(found: AuthorityConstraints, changes: dict[str, Any]) -> AuthorityConstraints:
    import msgspec

    return msgspec.structs.replace(found, **changes)


def test_an_authority_in_the_same_token_is_certified_only_if_its_next_key_is_known_to_permit_no_more() -> (
    None
):
    """Otherwise one that a front has made commits to a key of the front's, outside of every token."""
    link = ASKED.link(OTHER_KEY)
    committing = _with(LATER, {"next_key": THIRD.hex()})
    wide = _with(LATER, {"permitted": NameSet.of("permitted", ["*"])})
    assert not passes(link, other=committing)
    assert not passes(link, other=_with(committing, {"next_elsewhere": True}), reserve=LATER)
    assert not passes(link, other=committing, reserve=wide)
    assert not passes(link, other=committing, third=wide)
    assert not passes(link, other=committing, third=wide, reserve=LATER)
    assert passes(link, other=committing, reserve=LATER)
    assert passes(link, other=committing, third=LATER)


def test_the_next_key_in_the_same_token_is_linked_only_if_it_may_be_adopted_for_no_more() -> None:
    link = ASKED.link()
    wide = constraints(permitted=NameSet.of("permitted", ["*"]), next_key="")
    assert passes(link) and not passes(ASKED.link(next_key="ab" * 32))
    assert not passes(link, next_elsewhere=False)
    assert not passes(link, next_elsewhere=False, reserve=wide)
    assert passes(link, next_elsewhere=False, reserve=constraints(next_key=""))
    assert not passes(ASKED.link(next_key="ab" * 32), next_elsewhere=False, reserve=constraints(next_key=""))


def test_an_authority_without_a_next_key_links_only_keys_of_its_token() -> None:
    assert not passes(ASKED.link(), next_key="")
    assert passes(ASKED.link(OTHER_KEY), next_key="", other=LATER)
    assert passes(ASKED.root(next_key=""), next_key="")


def test_an_authority_that_has_none_below_it_certifies_none() -> None:
    assert passes(ASKED.root(path_length=0), path_length=0)
    assert not passes(ASKED.link(), path_length=0)
    assert not passes(ASKED.link(OTHER_KEY), path_length=0, other=LATER)


def test_common_names_are_free_only_where_no_reader_takes_them_for_a_foreign_host() -> None:
    assert passes(ASKED.leaf("client", "postgres", []), common_names=["*"])
    for host in ("www.example.net", "a@example.net", "2001:db8::1", "*", "*a", "localhost", "a\uff0eb"):
        assert not passes(ASKED.leaf("client", host, []), common_names=["*"]), host


def test_a_mailbox_that_is_excluded_is_so_in_every_case() -> None:
    for address in ("admin@example.com", "ADMIN@example.com"):
        asked = ASKED.leaf("client", dns=[], email=[address])
        for entry in ("admin@example.com", "Admin@example.com"):
            assert not passes(asked, excluded=NameSet.of("excluded", email=[entry]))
        assert passes(asked, excluded=NameSet.of("excluded", email=["root@example.com"]))


def test_an_address_of_ipv6_is_none_of_ipv4() -> None:
    """A network of IPv4 that is excluded, or not permitted, would be certified by the other name of its addresses."""
    everything = NameSet.of("permitted", ip=["0.0.0.0/0", "::/0"])
    for text, permitted in (
        ("::ffff:10.0.0.1", False), ("::10.0.0.1", False), ("64:ff9b::a00:1", False), ("::1", True), ("2001:db8::a00:1", True),
    ):  # fmt: skip
        asked = ASKED.leaf(dns=[], addresses=[text])
        assert passes(asked, permitted=everything, excluded=NameSet()) is permitted, text


def test_its_own_certificate_has_name_constraints() -> None:
    data = HONEST["its own certificate"]
    assert passes(data) and not passes(without(data, NAME_CONSTRAINTS))


def test_without_constraints_or_surroundings_nothing_is_signed() -> None:
    document = {Purpose.X509_AUTHORITY: constraints().document()}
    unknown = {Purpose.X509_AUTHORITY: {**document[Purpose.X509_AUTHORITY], "later": 1}}
    beside = Beside(nothing, nothing, NOW.timestamp)
    for check in (
        PurposeCheck(KeyType.P256, SPKI, document),
        PurposeCheck(KeyType.P256, SPKI, {}, beside),
        PurposeCheck(KeyType.P256, SPKI, unknown, beside),
    ):
        with pytest.raises(PurposeMismatch):
            check.check(Purpose.X509_AUTHORITY, SCHEME, HONEST["a server"])


def test_times_are_checked_against_the_clock_beside_the_key() -> None:
    early = Beside(nothing, nothing, (NOW.replace(year=2025)).timestamp)
    document = {Purpose.X509_AUTHORITY: constraints().document()}
    check = PurposeCheck(KeyType.P256, SPKI, document, early)
    for what in ("a server", "a revocation list", "its own certificate"):
        with pytest.raises(PurposeMismatch, match="begins in the future"):
            check.check(Purpose.X509_AUTHORITY, SCHEME, HONEST[what])


@pytest.mark.parametrize("what", HONEST)
def test_altered_bytes_give_only_the_declared_refusal(what: str) -> None:
    """What still passes differs in a value that is the issuer's to choose, and in nothing that readers could take otherwise."""
    for altered in cuts_and_extensions(HONEST[what]):
        assert not passes(altered)
    passed = [altered for altered in single_byte_changes(HONEST[what]) if passes(altered)]
    for altered in passed:
        position = next(at for at, (a, b) in enumerate(zip(altered, HONEST[what], strict=True)) if a != b)
        assert len(altered) == len(HONEST[what])
        assert position > 3, what


def test_random_changes_give_only_the_declared_refusal() -> None:
    source = random.Random(20261130)
    whole = list(HONEST.values())
    for _ in range(4_000):
        data = bytearray(source.choice(whole))
        for _ in range(source.randint(1, 6)):
            at = source.randrange(len(data))
            kind = source.randrange(3)
            if kind == 0:
                data[at] = source.randrange(256)
            elif kind == 1:
                del data[at : at + source.randint(1, 8)]
            else:
                data[at:at] = source.randbytes(source.randint(1, 8))
            data = data or bytearray(b"\0")
        passes(bytes(data))


def test_the_next_key_is_the_one_of_the_link() -> None:
    assert hashlib.sha256(spki_of(NEXT_KEY)).hexdigest() == constraints().next_key
    assert replace(ASKED.issuer, name=named("x")).name != ASKED.issuer.name


# --- what no builder makes: parts of documents exchanged byte by byte ---

VERSION, SERIAL, ALGORITHM, ISSUER, VALIDITY, SUBJECT, KEY, EXTENSIONS = range(8)


def parts(data: bytes) -> list[bytes]:
    """The members of a SEQUENCE, each with its header."""
    reader = DerReader(data, "x").enter(asn1.SEQUENCE)
    found = []
    while (tag := reader.next_tag()) is not None:
        found.append(reader.whole(tag))
    return found


def exchanged(data: bytes, at: int, part: bytes) -> bytes:
    found = parts(data)
    found[at] = part
    return der.sequence(*found)


def inside(tagged: bytes) -> bytes:
    """The content of an element."""
    return DerReader(tagged, "x").content(tagged[0])


def extensions_of(data: bytes) -> list[bytes]:
    return parts(inside(parts(data)[EXTENSIONS]))


def with_extensions(data: bytes, *extensions: bytes) -> bytes:
    return exchanged(data, EXTENSIONS, der.tlv(0xA3, der.sequence(*extensions)))


def extension(oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    flag = der.BOOLEAN_TRUE if critical else b""
    return der.sequence(der.tlv(0x06, oid), flag, der.tlv(0x04, value))


def replaced(data: bytes, oid: bytes, value: bytes, *, critical: bool = False) -> bytes:
    """With another extension in place of the one with this OID, or behind all."""
    kept = [each for each in extensions_of(data) if oid not in each[:20]]
    return with_extensions(data, *kept, extension(oid, value, critical=critical))


def without(data: bytes, oid: bytes) -> bytes:
    return with_extensions(data, *(each for each in extensions_of(data) if oid not in each[:20]))


def common_name(tag: int, content: bytes) -> bytes:
    attribute = der.sequence(der.tlv(0x06, bytes.fromhex("550403")), der.tlv(tag, content))
    return der.sequence(der.tlv(der.SET, attribute))


LEAF, ROOT, CLIENT = HONEST["a server"], HONEST["its own certificate"], HONEST["a client with a name"]
LIST = HONEST["a revocation list"]
BEGIN = der.time(NOW)
HASHED = bytes.fromhex(constraints().next_key)
SHA_1_OF_KEY = der.sequence(der.sequence(der.tlv(0x06, bytes.fromhex("2b0e03021a"))), der.tlv(0x04, HASHED))
ODD = {
    "a negative serial number": exchanged(LEAF, SERIAL, bytes.fromhex("020180")),
    "a serial number of zero": exchanged(LEAF, SERIAL, bytes.fromhex("020100")),
    "a serial number of 21 bytes": exchanged(LEAF, SERIAL, der.tlv(0x02, b"\x01" * 21)),
    "a serial number with a zero too many": exchanged(LEAF, SERIAL, bytes.fromhex("02020001")),
    "an end that is the begin": exchanged(LEAF, VALIDITY, der.sequence(BEGIN, BEGIN)),
    "a time without seconds": exchanged(LEAF, VALIDITY, der.sequence(der.tlv(0x17, b"2603040506Z"), BEGIN)),
    "a time with a zone": exchanged(LEAF, VALIDITY, der.sequence(der.tlv(0x17, b"260304050607+0000"), BEGIN)),
    "a day that does not exist": exchanged(LEAF, VALIDITY, der.sequence(der.tlv(0x17, b"260230050607Z"), BEGIN)),
    "an early time in the late form": exchanged(
        LEAF, VALIDITY, der.sequence(BEGIN, der.tlv(0x18, b"20260404050607Z"))
    ),
    "an extension twice": with_extensions(LEAF, *extensions_of(LEAF), extensions_of(LEAF)[-1]),
    "no extensions": der.sequence(*parts(LEAF)[:EXTENSIONS]),
    "unique identifiers": der.sequence(*parts(LEAF)[:EXTENSIONS], bytes.fromhex("82020001"), parts(LEAF)[EXTENSIONS]),
    "an address of five bytes": replaced(LEAF, bytes.fromhex("551d11"), der.sequence(der.tlv(0x82, b"www.example.com"), der.tlv(0x87, b"\xc0\0\2\1\1"))),
    "no alternative name in the extension": replaced(LEAF, bytes.fromhex("551d11"), der.sequence()),
    "distribution points that are critical": replaced(LEAF, bytes.fromhex("551d1f"), der.sequence(), critical=True),
    "long distribution points": replaced(
        LEAF, bytes.fromhex("551d1f"), der.sequence(der.tlv(0x04, b"x" * 3_000))
    ),
    "an authority without a key identifier": without(ROOT, bytes.fromhex("551d0e")),
    "a path length of two bytes": replaced(ROOT, bytes.fromhex("551d13"), bytes.fromhex("30070101ff02020001"), critical=True),
    "a negative path length": replaced(ROOT, bytes.fromhex("551d13"), bytes.fromhex("30060101ff0201ff"), critical=True),
    "a next key by SHA-1": replaced(ROOT, bytes.fromhex("2b0601040183921b0201"), SHA_1_OF_KEY),
    "a critical next key": replaced(
        ROOT, bytes.fromhex("2b0601040183921b0201"),
        bytes.fromhex("302f300b06096086480165030402010420") + HASHED, critical=True,
    ),
    "a link without name constraints": without(HONEST["one that links the next key"], bytes.fromhex("551d1e")),
    "a common name in another kind of string": exchanged(CLIENT, SUBJECT, common_name(0x14, b"alice")),
    "a list with another extension": exchanged(
        LIST, 6, der.tlv(0xA0, der.sequence(*parts(inside(parts(LIST)[6])), extension(bytes.fromhex("551d1c"), b"\x30\0", critical=True)))
    ),
    "a list without entries that are there": exchanged(LIST, 5, der.sequence()),
    "a list with the reason removeFromCRL": exchanged(
        LIST, 5, der.sequence(der.sequence(der.integer(5), BEGIN, der.sequence(extension(bytes.fromhex("551d15"), bytes.fromhex("0a0108")))))
    ),
    "a list with an extension in an entry": exchanged(
        LIST, 5, der.sequence(der.sequence(der.integer(5), BEGIN, der.sequence(extension(bytes.fromhex("551d18"), BEGIN))))
    ),
    "an end like that of an OpenPGP signature": ASKED.leaf(
        issuer=replace(ASKED.issuer, key_id=bytes(14) + bytes.fromhex("04ff00000010"))
    ),
}  # fmt: skip


def test_parts_are_exchanged_as_they_should_be() -> None:
    """Positive control: what the tests above change is all that is wrong about it."""
    for data in (LEAF, ROOT, CLIENT, LIST):
        assert der.sequence(*parts(data)) == data
    san = bytes.fromhex("551d11")
    assert passes(replaced(LEAF, san, der.sequence(der.tlv(0x82, b"www.example.com"))))
    assert passes(exchanged(CLIENT, SUBJECT, common_name(0x0C, b"alice")))
    assert passes(replaced(ROOT, bytes.fromhex("551d13"), bytes.fromhex("30060101ff020101"), critical=True))
    entry = der.sequence(
        der.integer(5), BEGIN, der.sequence(extension(bytes.fromhex("551d15"), bytes.fromhex("0a0104")))
    )
    assert passes(exchanged(LIST, 5, der.sequence(entry)))
    assert passes(ASKED.leaf(issuer=replace(ASKED.issuer, key_id=bytes(14) + bytes.fromhex("04fe00000010"))))


@pytest.mark.parametrize("what", ODD)
def test_what_no_builder_makes_is_refused(what: str) -> None:
    assert not passes(ODD[what])


@pytest.mark.parametrize("name", [b"", b"x" * 65, "a\u202eb".encode(), b"a\x00b", b"\xff"])
def test_a_common_name_is_short_and_printable(name: bytes) -> None:
    anything = {"common_names": ["*"]}
    assert passes(exchanged(CLIENT, SUBJECT, common_name(0x0C, b"bob")), **anything)
    assert not passes(exchanged(CLIENT, SUBJECT, common_name(0x0C, name)), **anything)
