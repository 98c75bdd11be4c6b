"""A node takes the next anchor through a link by a key that it trusts, and in no other way."""

from __future__ import annotations

import subprocess
from datetime import UTC, timedelta
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmd.anchors.acceptance import accept, check_anchors
from hsmd.anchors.name_limits import permits_no_more
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.anchors.root_update import RootUpdate
from tests.support.anchors import (
    COMMITTED,
    NAMES,
    NEW,
    NEW_WITH_NEW,
    NEW_WITH_OLD,
    NO,
    NOW,
    OLD,
    OLD_WITH_NEW,
    OLD_WITH_OLD,
    OTHER,
    OTHER_ROOT,
    UNCOMMITTED,
    UPDATE,
    certificate,
    commitment,
    identifier,
    name,
)
from tests.support.mutations import single_byte_changes

MOMENT = NOW.replace(tzinfo=UTC)
ANCHORS = (OTHER_ROOT, COMMITTED)


def refusal(update: RootUpdate, anchors: Any = ANCHORS, days: float = 0) -> str:
    with pytest.raises(UpdateRefused) as refused:
        accept(anchors, update, MOMENT + timedelta(days=days))
    return refused.value.text


def new(**changes: Any) -> RootUpdate:
    """The update with another newWithNew."""
    return RootUpdate(certificate(NEW, NEW, **{"ends": 1000} | changes), NEW_WITH_OLD)


def link(**changes: Any) -> RootUpdate:
    """The update with another newWithOld."""
    return RootUpdate(NEW_WITH_NEW, certificate(NEW, OLD, **changes))


@pytest.mark.parametrize("back", [None, OLD_WITH_NEW])
def test_a_link_by_a_key_that_is_trusted_leads_to_the_new_anchor(back: Any) -> None:
    assert accept(ANCHORS, RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD, back), MOMENT) == NEW_WITH_NEW
    assert accept((*ANCHORS, NEW_WITH_NEW), UPDATE, MOMENT) == NEW_WITH_NEW


def test_a_link_is_never_a_trust_anchor() -> None:
    for anchors in ((NEW_WITH_OLD,), (OLD_WITH_OLD, NEW_WITH_OLD)):
        with pytest.raises(CertificatesInvalid, match="not the self-signed certificate of a CA"):
            check_anchors(anchors)
        with pytest.raises(CertificatesInvalid):
            accept(anchors, UPDATE, MOMENT)
    check_anchors(ANCHORS)


@pytest.mark.parametrize(
    ("update", "fault"),
    [
        (RootUpdate(NEW_WITH_NEW), "newWithOld is missing"),
        (RootUpdate(NEW_WITH_NEW, None, OLD_WITH_NEW), "newWithOld is missing"),
        (RootUpdate(NEW_WITH_NEW, NEW_WITH_NEW), "does not verify under an anchor"),
        (link(signer=OTHER), "does not verify under an anchor"),
        (RootUpdate(OTHER_ROOT, NEW_WITH_OLD), "newWithNew is for another key"),
        (RootUpdate(NEW_WITH_OLD, NEW_WITH_OLD), "not signed by the key that it is for"),
        (new(signer=OTHER), "not signed by the key that it is for"),
        (new(subject_name=name(OTHER)), "another name"),
        (RootUpdate(OLD_WITH_OLD, certificate(OLD, OLD)), "for the key of the anchor itself"),
        (link(constraints=x509.BasicConstraints(ca=False, path_length=None)), "newWithOld is not a CA"),
        (link(constraints=None), "newWithOld is not a CA"),
        (link(usage=NO), "newWithOld is not a CA"),
        (link(usage=None), "newWithOld is not a CA"),
        (new(constraints=None), "newWithNew is not a CA"),
        (new(usage=NO), "newWithNew is not a CA"),
        (new(usage=None), "newWithNew is not a CA"),
        (link(subject=None), "newWithOld has no subject key identifier"),
        (link(subject=identifier(OTHER)), "is not that of newWithOld"),
        (link(issuer=None), "newWithOld has no authority key identifier"),
        (link(issuer=x509.AuthorityKeyIdentifier(b"x" * 20, None, None)), "is not that of the anchor"),
        (
            link(
                issuer=x509.AuthorityKeyIdentifier(identifier(OLD).digest, [x509.DirectoryName(name(OLD))], 1)
            ),
            "names its issuer by serial number",
        ),
        (new(subject=None), "newWithNew has no subject key identifier"),
        (new(subject=identifier(OTHER)), "different identifiers for one key"),
        (new(issuer=x509.AuthorityKeyIdentifier(b"x" * 20, None, None)), "is not that of newWithOld"),
        (new(names=None), "permits names that newWithOld does not"),
        (new(names=x509.NameConstraints([x509.DNSName("example.com")], None)), "permits names"),
        (
            link(uses=x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
            "uses that newWithOld is not for",
        ),
        (
            new(more=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
            "newWithNew has a critical",
        ),
        (
            link(more=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
            "newWithOld has a critical",
        ),
        (RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD, NEW_WITH_OLD), "oldWithNew is not for the key"),
        (RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD, OLD_WITH_OLD), "oldWithNew is not signed by the new key"),
        (
            RootUpdate(NEW_WITH_NEW, NEW_WITH_OLD, certificate(OTHER, NEW, subject_name=name(OLD))),
            "oldWithNew is not for the key",
        ),
    ],
)
def test_any_other_update_is_refused(update: RootUpdate, fault: str) -> None:
    assert fault in refusal(update)


def test_identifier_of_its_own_issuer_may_be_left_out() -> None:
    assert accept(ANCHORS, new(issuer=None), MOMENT)


@pytest.mark.parametrize(
    ("days", "fault"),
    [
        (-11, "newWithOld is not valid before"),
        (101, "the anchor expired"),
        (-951, "the anchor is not valid before"),
    ],
)
def test_what_is_not_valid_now_is_refused(days: int, fault: str) -> None:
    assert fault in refusal(UPDATE, days=days)


def test_each_certificate_has_to_be_valid_now() -> None:
    assert "newWithOld expired" in refusal(link(ends=-1))
    assert "newWithNew expired" in refusal(new(ends=-1))
    assert "newWithNew is not valid before" in refusal(new(begins=1))


def test_a_ca_below_the_anchor_is_not_its_next_generation() -> None:
    """Its certificate is like a link, and its holder makes the rest: an anchor without limits, that is not revoked any more."""
    below = RootUpdate(certificate(OTHER, OTHER), certificate(OTHER, OLD))
    assert "commits to another key" in refusal(below, (COMMITTED,))
    assert "does not commit to its next key" in refusal(below, (UNCOMMITTED,))
    same = name(OLD)
    named_so = RootUpdate(
        x509.CertificateBuilder(
            same, same, OTHER.public_key(), 5, NOW - timedelta(days=1), NOW + timedelta(days=9), _extensions()
        ).sign(OTHER, None),
        certificate(OTHER, OLD, subject_name=same),
    )
    assert "does not commit to its next key" in refusal(named_so, (UNCOMMITTED,))
    assert "commits to another key" in refusal(below, (UNCOMMITTED, COMMITTED))
    assert "commits to another key" in refusal(below, (COMMITTED, UNCOMMITTED))


def test_an_anchor_without_a_commitment_needs_the_approved_key() -> None:
    digests = [
        sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
        for key in (NEW, OTHER)
    ]
    assert "none was approved" in refusal(UPDATE, (UNCOMMITTED,))
    assert accept((UNCOMMITTED,), UPDATE, MOMENT, digests[0]) == NEW_WITH_NEW
    assert accept((COMMITTED,), UPDATE, MOMENT, digests[0]) == NEW_WITH_NEW
    for anchor in (UNCOMMITTED, COMMITTED):
        with pytest.raises(UpdateRefused, match="than the one that was approved"):
            accept((anchor,), UPDATE, MOMENT, digests[1])


@pytest.mark.parametrize(
    "value",
    [
        commitment(NEW).value + b"\x05\x00",
        commitment(NEW).value[:-1],
        bytes.fromhex("301f300706052b0e03021a0414") + bytes(20),
        b"\x05\x00",
        b"",
    ],
)
def test_a_commitment_that_cannot_be_read_leads_nowhere(value: bytes) -> None:
    extension = x509.UnrecognizedExtension(commitment(NEW).oid, value)
    anchor = certificate(OLD, OLD, begins=-950, commitment=extension)
    assert "the anchor: " in refusal(UPDATE, (anchor,))


def test_a_new_anchor_permits_no_more_than_the_old_one() -> None:
    wide: Any = {
        "constraints": x509.BasicConstraints(ca=True, path_length=None),
        "names": None,
        "uses": None,
    }
    own = certificate(OLD, OLD, begins=-950, commitment=commitment(NEW))
    assert "longer paths" in refusal(new(constraints=wide["constraints"]), (own,))
    assert "longer paths" in refusal(new(constraints=x509.BasicConstraints(ca=True, path_length=3)), (own,))
    assert "longer than the anchor" in refusal(new(ends=1_100), (own,))
    no_names = RootUpdate(certificate(NEW, NEW, names=None), certificate(NEW, OLD, names=None))
    assert "names that the anchor does not" in refusal(no_names, (own,))
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    of_servers = certificate(OLD, OLD, begins=-950, commitment=commitment(NEW), uses=uses)
    assert "uses that the anchor is not for" in refusal(UPDATE, (of_servers,))


def test_an_anchor_of_another_ca_leads_nowhere() -> None:
    assert "does not verify under an anchor" in refusal(UPDATE, (OTHER_ROOT,))
    assert "does not verify under an anchor" in refusal(UPDATE, (NEW_WITH_NEW,))
    same = name(OLD)
    builder = x509.CertificateBuilder(
        same, same, OTHER.public_key(), 5, NOW - timedelta(days=1), NOW + timedelta(days=9), _extensions()
    )
    assert "does not verify under an anchor" in refusal(UPDATE, (builder.sign(OTHER, None),))


def test_a_path_length_that_peers_enforce_is_heeded() -> None:
    short = certificate(
        OLD, OLD, constraints=x509.BasicConstraints(ca=True, path_length=0), commitment=commitment(NEW)
    )
    assert "path length 0" in refusal(UPDATE, (short,))
    same = name(OLD)  # a CA that keeps its name is not counted (RFC 5280, section 4.2.1.9)
    kept = RootUpdate(
        x509.CertificateBuilder(
            same, same, NEW.public_key(), 5, NOW - timedelta(days=1), NOW + timedelta(days=9), _extensions()
        ).sign(NEW, None),
        certificate(NEW, OLD, subject_name=same),
    )
    assert accept((short,), kept, MOMENT) == kept.new_with_new


def _extensions() -> list[x509.Extension[Any]]:
    return list(certificate(NEW, NEW, constraints=x509.BasicConstraints(ca=True, path_length=0)).extensions)


def test_short_keys_are_refused() -> None:
    key = rsa.generate_private_key(65537, 1024)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "short")])
    builder = x509.CertificateBuilder(
        name(OLD), subject, key.public_key(), 5, NOW - timedelta(days=1), NOW + timedelta(days=9)
    )
    for word in NEW_WITH_OLD.extensions:
        builder = builder.add_extension(word.value, word.critical)
    assert "RSA key of 1024 bits" in refusal(RootUpdate(NEW_WITH_NEW, builder.sign(OLD, None)))


@pytest.mark.parametrize("digest", ["md5", "sha1"])
def test_signatures_with_broken_hashes_count_for_nothing(digest: str, tmp_path: Path) -> None:
    made = tmp_path / "root.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=weak", f"-{digest}"]
    usage = [
        "-addext",
        "keyUsage=critical,keyCertSign",
        "-out",
        str(made),
        "-keyout",
        str(tmp_path / "key.pem"),
    ]
    for chosen in (digest, "sha256"):
        subprocess.run([*command[:-1], f"-{chosen}", *usage], capture_output=True, timeout=60, check=True)
        root = x509.load_pem_x509_certificate(made.read_bytes())
        if chosen == "sha256":
            check_anchors([root])
            continue
        with pytest.raises(CertificatesInvalid, match="not the self-signed certificate"):
            check_anchors([root])


def test_altered_bytes_of_an_update_give_no_anchor() -> None:
    """Each byte of an update is signed, or of its frame: none can be changed without a refusal."""
    encoded = UPDATE.encode()
    for altered in single_byte_changes(encoded):
        with pytest.raises((CertificatesInvalid, UpdateRefused)):
            accept(ANCHORS, RootUpdate.decode(altered), MOMENT)
    assert accept(ANCHORS, RootUpdate.decode(encoded), MOMENT)


def _names(permitted: list[str], excluded: list[str] = []) -> x509.NameConstraints:  # noqa: B006
    kinds = {"d": x509.DNSName, "e": x509.RFC822Name}
    made = [
        [
            x509.IPAddress(ip_network(text[2:])) if text[0] == "i" else kinds[text[0]](text[2:])
            for text in texts
        ]
        for texts in (permitted, excluded)
    ]
    return x509.NameConstraints(*(each or None for each in made))


@pytest.mark.parametrize(
    ("inner", "outer", "less"),
    [
        (None, None, True),
        (NAMES, None, True),
        (None, NAMES, False),
        (NAMES, NAMES, True),
        (_names(["d:a.example.com"]), _names(["d:example.com"]), True),
        (_names(["d:aexample.com"]), _names(["d:example.com"]), False),
        (_names(["d:example.com", "d:b"]), _names(["d:example.com"]), False),
        (_names(["d:invalid"]), _names(["d:example.com"]), True),
        (_names(["e:a@b"]), _names(["d:example.com"]), False),
        (_names(["e:a@b.c"]), _names(["e:b.c"]), True),
        (_names(["e:b.c"]), _names(["e:a@b.c"]), False),
        (_names(["e:a@x.b.c"]), _names(["e:.b.c"]), True),
        (_names(["i:192.0.2.0/25"]), _names(["i:192.0.2.0/24"]), True),
        (_names(["i:192.0.2.0/24"]), _names(["i:192.0.2.0/25"]), False),
        (_names(["i:2001:db8::/32"]), _names(["i:192.0.2.0/24"]), False),
        (_names(["d:b"], ["i:0.0.0.0/0", "i:::/0"]), _names(["i:192.0.2.0/24"]), True),
        (_names(["d:b"], ["d:x.b"]), _names(["d:b"], ["d:y.x.b"]), True),
        (_names(["d:b"], ["d:y.x.b"]), _names(["d:b"], ["d:x.b"]), False),
    ],
)
def test_names_of_a_new_anchor_are_within_those_of_the_link(inner: Any, outer: Any, less: bool) -> None:
    assert permits_no_more(inner, outer) is less
