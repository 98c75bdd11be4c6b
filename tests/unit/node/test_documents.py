"""The files of a node: what they hold, what is refused, and that they change together."""

from __future__ import annotations

import stat
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from hsmd.algorithms import KeyType
from hsmd.anchors.problems import CertificatesInvalid
from hsmd.deployment.version_directories import Access, current
from hsmd.node import documents
from hsmd.node.documents import Kept, check_chain, checked_lists, parse_lists
from hsmd.node.programs import ANCHORS, CHAIN, COMBINED, KEY, LISTS, PROGRAMS, SECRET
from hsmd.node.tls_keys import TlsKey
from tests.support.node_authority import Clock, NodeAuthority


@pytest.fixture
def kept(authority: NodeAuthority) -> Kept:
    key = TlsKey.generate(KeyType.P256)
    leaf = authority.issue(load_pem_private_key(key.pem, None).public_key())
    return Kept(key, (leaf, authority.root()), (authority.root(),), (authority.list(),))


def test_what_is_written_is_read_again(kept: Kept, tmp_path: Path) -> None:
    version = documents.write(tmp_path, kept.files(PROGRAMS["haproxy"]), Access())
    assert documents.read(tmp_path) == kept
    assert current(tmp_path) == version
    combined = (tmp_path / "current" / COMBINED).read_bytes()
    assert combined == (tmp_path / "current" / CHAIN).read_bytes() + kept.key.pem


def test_a_switch_in_the_middle_does_not_mix_two_versions(
    kept: Kept, authority: NodeAuthority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = TlsKey.generate(KeyType.P256)
    leaf = authority.issue(load_pem_private_key(key.pem, None).public_key())
    other = Kept(key, (leaf, authority.root()), kept.anchors)
    documents.write(tmp_path, kept.files(PROGRAMS["nginx"]), Access())
    read_file = documents.read_file

    def switching(path: Path, limit: int) -> bytes:
        content = read_file(path, limit)
        documents.write(tmp_path, other.files(PROGRAMS["nginx"]), Access())
        return content

    monkeypatch.setattr(documents, "read_file", switching)
    assert documents.read(tmp_path) == kept


def test_the_key_is_for_its_owner_alone(kept: Kept, tmp_path: Path) -> None:
    version = documents.write(tmp_path, kept.files(PROGRAMS["haproxy"]), Access())
    for name in SECRET:
        assert stat.S_IMODE((tmp_path / version / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / version).stat().st_mode) == 0o700
    assert kept.key.pem.decode() not in repr(kept)


def test_the_same_files_are_the_same_version(kept: Kept, tmp_path: Path) -> None:
    files = kept.files(PROGRAMS["nginx"])
    first = documents.write(tmp_path, files, Access())
    made = (tmp_path / "current").lstat().st_mtime_ns
    assert documents.write(tmp_path, files, Access()) == first
    assert (tmp_path / "current").lstat().st_mtime_ns == made


def test_a_file_that_is_damaged_is_written_again(kept: Kept, tmp_path: Path) -> None:
    files = kept.files(PROGRAMS["nginx"])
    version = documents.write(tmp_path, files, Access())
    (tmp_path / version / LISTS).write_bytes(b"")
    documents.write(tmp_path, files, Access())
    assert documents.read(tmp_path) == kept


@pytest.mark.parametrize("name", [KEY, CHAIN, ANCHORS, LISTS])
def test_a_damaged_file_is_named_and_its_content_is_not(kept: Kept, tmp_path: Path, name: str) -> None:
    version = documents.write(tmp_path, kept.files(PROGRAMS["nginx"]), Access())
    path = tmp_path / version / name
    path.write_bytes(path.read_bytes()[:-40] + b"\nsecret\n")
    with pytest.raises(CertificatesInvalid) as raised:
        documents.read(tmp_path)
    assert "secret" not in raised.value.text


def test_nothing_is_there_before_the_first_version(tmp_path: Path) -> None:
    assert documents.read(tmp_path) is None


def test_a_chain_of_another_key_is_refused(kept: Kept) -> None:
    with pytest.raises(CertificatesInvalid, match="another key"):
        check_chain(kept.chain, TlsKey.generate(KeyType.P256))


def test_a_chain_whose_certificates_do_not_follow_is_refused(kept: Kept, clock: Clock) -> None:
    with pytest.raises(CertificatesInvalid, match="not issued by"):
        check_chain((kept.leaf, NodeAuthority(clock).root()), kept.key)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_chain_that_is_not_valid_now_is_refused(kept: Kept, clock: Clock, hours: int) -> None:
    clock.forward(hours=hours)
    with pytest.raises(CertificatesInvalid, match="not now"):
        check_chain(kept.chain, kept.key, clock())


def test_a_chain_below_another_anchor_is_refused(kept: Kept, clock: Clock) -> None:
    documents.check_anchored(kept.chain, kept.anchors)
    documents.check_anchored(kept.chain[:1], kept.anchors)
    with pytest.raises(CertificatesInvalid, match="does not lead"):
        documents.check_anchored(kept.chain, (NodeAuthority(clock, common_name="Another CA").root(),))


def test_lists_of_others_are_left_out(kept: Kept, authority: NodeAuthority, clock: Clock) -> None:
    named_alike = NodeAuthority(clock)
    assert checked_lists((named_alike.list(),), kept.anchors, ()) == ()
    mine = authority.list()
    assert checked_lists((named_alike.list(), mine), kept.anchors, ()) == (mine,)


def test_an_older_list_never_replaces_a_newer_one(kept: Kept, authority: NodeAuthority, clock: Clock) -> None:
    old = authority.list()
    clock.forward(hours=1)
    new = authority.list()
    assert checked_lists((old,), kept.anchors, (new,)) == (new,)
    assert checked_lists((new,), kept.anchors, (old,)) == (new,)
    assert checked_lists((), kept.anchors, (old,)) == (old,), "a daemon that offers none takes none away"


def test_a_revoked_certificate_is_known_by_a_list_of_its_issuer(kept: Kept, authority: NodeAuthority) -> None:
    assert not kept.is_revoked
    authority.revoked.append(kept.leaf.serial_number)
    assert Kept(kept.key, kept.chain, kept.anchors, (authority.list(),)).is_revoked


def test_whether_there_is_a_list_of_each_authority(kept: Kept) -> None:
    assert kept.has_all_lists
    assert not Kept(kept.key, kept.chain, kept.anchors, ()).has_all_lists


def test_several_lists_are_parsed_and_other_blocks_refused(authority: NodeAuthority, kept: Kept) -> None:
    lists = (authority.list(), authority.list())
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in lists)
    assert parse_lists(pem) == lists
    assert parse_lists(b"") == ()
    with pytest.raises(CertificatesInvalid):
        parse_lists(pem + kept.leaf.public_bytes(Encoding.PEM))
    with pytest.raises(CertificatesInvalid):
        parse_lists(pem[:-30])


def test_a_list_whose_members_cannot_be_read_is_refused_at_once(authority: NodeAuthority) -> None:
    good = authority.list().public_bytes(Encoding.DER)
    name = b"\x0c\x0cExample CA 1"
    assert name in good
    for kind in (0x02, 0x03, 0x05, 0x1B):  # not the kinds of strings that names have
        pem = b64encode(good.replace(name, bytes([kind]) + name[1:])).decode()
        with pytest.raises(CertificatesInvalid, match="list 1 is not a well-formed"):
            parse_lists(f"-----BEGIN X509 CRL-----\n{pem}\n-----END X509 CRL-----\n".encode())


def test_a_key_of_each_type_asks_for_a_certificate() -> None:
    for key_type in (KeyType.P256, KeyType.P384, KeyType.RSA_2048):
        key = TlsKey.generate(key_type)
        request = x509.load_pem_x509_csr(key.request().encode())
        assert request.is_signature_valid
        assert key.key_type is key_type
        assert TlsKey.read(key.pem) == key
