"""What a node keeps: its own key and chain, trust anchors and revocation lists, as the files of one version.

All of them are in one directory that is switched at once, so that no program loads a chain beside anchors of another moment.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from hsmd.anchors import pem_bundle
from hsmd.anchors.acceptance import is_issued_by
from hsmd.anchors.certificates import MAX_BYTES, MAX_CERTIFICATES, UNREADABLE
from hsmd.anchors.problems import CertificatesInvalid
from hsmd.deployment import trusted, version_directories
from hsmd.deployment.version_directories import Access
from hsmd.errors import ConfigurationError, HsmdError
from hsmd.node.programs import ANCHORS, CHAIN, COMBINED, KEY, LISTS, UPDATE, Program
from hsmd.node.tls_keys import TlsKey, public_half
from hsmd.node.trust import Certificates
from hsmd.system import directories
from hsmd.system.input_files import read_file

_LIST = re.compile(
    rb"-----BEGIN X509 CRL-----\r?\n(?:[A-Za-z0-9+/=]++\r?\n)*+-----END X509 CRL-----[ \t]*(?:\r?\n|\Z)"
)

_TRIAL_BYTES = 65_536
"""More than key, chain and anchors have."""

RevocationLists = tuple[x509.CertificateRevocationList, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """The documents of one version. There is no chain before the first certificate was issued."""

    key: TlsKey
    chain: Certificates
    anchors: Certificates
    lists: RevocationLists = ()
    update: bytes = b""
    """What brought the newest anchor (RootCaKeyUpdateContent, DER), while the old one is held, too."""

    @property
    def leaf(self) -> x509.Certificate:
        """The node's own certificate."""
        return self.chain[0]

    @property
    def leaf_digest(self) -> str:
        """SHA-256 of it, hexadecimal."""
        return hashlib.sha256(self.leaf.public_bytes(Encoding.DER)).hexdigest()

    @property
    def is_revoked(self) -> bool:
        """Whether a list of its issuer has it."""
        return any(
            found.issuer == self.leaf.issuer
            and found.get_revoked_certificate_by_serial_number(self.leaf.serial_number) is not None
            for found in self.lists
        )

    def ended_lists(self, now: datetime) -> list[str]:
        """The authorities whose revocation list has ended."""
        return [
            each.issuer.rfc4514_string()
            for each in self.lists
            if each.next_update_utc is not None and each.next_update_utc <= now
        ]

    @property
    def has_all_lists(self) -> bool:
        """Whether there is a list of each authority that verifiers meet."""
        authorities = {each.subject for each in (*self.chain[1:], *self.anchors)}
        return authorities <= {each.issuer for each in self.lists}

    def with_lists(self, offered: RevocationLists) -> Kept:
        """The same with the newest lists of its authorities, those that are offered among them."""
        issuers = (*self.chain[1:], *self.anchors)
        return replace(self, lists=checked_lists(offered, issuers, self.lists))

    def files(self, program: Program) -> dict[str, bytes]:
        """The files by name."""
        chain, anchors = pem_bundle.encode(self.chain), pem_bundle.encode(self.anchors)
        made = {CHAIN: chain, ANCHORS: anchors}
        if self.key.pem:
            made[KEY] = self.key.pem
        if self.key.pem and program.combined:
            made[COMBINED] = chain + self.key.pem
        if self.update:
            made[UPDATE] = self.update
        made[LISTS] = b"".join(each.public_bytes(Encoding.PEM) for each in self.lists)
        return made


def version_of(files: Mapping[str, bytes]) -> str:
    """What the version with these files is called."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:32]


def read(home: Path) -> Kept | None:
    """The documents of the current version; None before the first. Raises OSError, and CertificatesInvalid for damaged files."""
    version = version_directories.current(home)
    if not version:
        return None
    directory = home / version  # through the link, a switch in between would mix two versions
    contents = {name: read_file(directory / name, MAX_BYTES) for name in (CHAIN, ANCHORS, LISTS)}
    chain = pem_bundle.parse(contents[CHAIN], CHAIN)
    key = _key(directory / KEY, chain)
    check_chain(chain, key)
    anchors = pem_bundle.parse(contents[ANCHORS], ANCHORS)
    return Kept(key, chain, anchors, parse_lists(contents[LISTS], LISTS), _update(directory))


def _update(directory: Path) -> bytes:
    try:
        return read_file(directory / UPDATE, MAX_BYTES)
    except FileNotFoundError:
        return b""


def _key(path: Path, chain: Sequence[x509.Certificate]) -> TlsKey:
    """The key in the file; without a file that of the chain, whose private half is in a token."""
    try:
        return TlsKey.read(read_file(path, MAX_BYTES))
    except FileNotFoundError:
        try:
            return TlsKey(b"", public_half(chain[0].public_key()))
        except (ValueError, UnsupportedAlgorithm):
            raise CertificatesInvalid(
                f"{CHAIN}: its first certificate is for a key of an unknown kind"
            ) from None


def read_anchors(home: Path) -> Certificates:
    """The anchors of the current version alone. Raises OSError and CertificatesInvalid."""
    return pem_bundle.parse(read_file(home / version_directories.CURRENT / ANCHORS, MAX_BYTES), ANCHORS)


def fault_of(error: OSError | HsmdError, path: Path) -> str:
    """What is wrong with the files below `path`, for people."""
    if isinstance(error, HsmdError):
        return error.text
    if error.errno == errno.EPERM and error.filename is None:
        return f"{path}: files cannot be given to another owner; run the node as root, or as that user without `owner`"
    return f"{error.filename or path}: {error.strerror or error}"


def prepare(home: Path, access: Access) -> None:
    """Raise OSError unless a version could be written there now: certificates are not asked for that would be lost.

    As root, also if another user could let the path lead elsewhere.
    """
    directories.make_shared(home)
    if os.geteuid() == 0:
        try:
            trusted.check_way(home)
            trusted.check(home, home.stat())
        except ConfigurationError as error:
            raise OSError(errno.EACCES, error.faults[0], error.source) from None
    version_directories.try_store(home, _TRIAL_BYTES, access)


def write(home: Path, files: Mapping[str, bytes], access: Access) -> str:
    """Make the files current; return the version. Nothing is written if they are current already. Raises OSError."""
    version = version_of(files)
    if not version_directories.is_current(home, version, files):
        version_directories.store(home / version, files, access)
        version_directories.switch(home, version)
        version_directories.prune(home, version)
    return version


def check_chain(chain: Sequence[x509.Certificate], key: TlsKey, now: datetime | None = None) -> None:
    """Raise CertificatesInvalid unless the first certificate is for this key (and valid `now`), and each issued by the next."""
    try:
        certified = public_half(chain[0].public_key())
    except (ValueError, UnsupportedAlgorithm):
        certified = b""
    if certified != key.public:
        raise CertificatesInvalid("chain: its first certificate is for another key than this node's")
    for number, (below, above) in enumerate(pairwise(chain), 1):
        if not is_issued_by(below, above):
            raise CertificatesInvalid(f"chain: certificate {number} is not issued by the one behind it")
    begins, ends = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if now is not None and not begins <= now < ends:
        raise CertificatesInvalid(
            f"chain: valid from {begins:%Y-%m-%d %H:%M:%S} to {ends:%Y-%m-%d %H:%M:%S} UTC, which is not now; compare the"
            " clocks of this host and the daemon's"
        )


def check_anchored(chain: Sequence[x509.Certificate], anchors: Certificates) -> None:
    """Raise CertificatesInvalid unless the chain ends in a held anchor, or below one: peers could not verify it otherwise."""
    last = chain[-1]
    if not any(last == anchor or is_issued_by(last, anchor) for anchor in anchors):
        raise CertificatesInvalid("chain: it does not lead to a trust anchor of this node")


def parse_lists(pem: bytes, what: str = "revocation lists") -> RevocationLists:
    """The revocation lists of a file; none for an empty one. Raises CertificatesInvalid. Signatures are not verified."""
    if len(pem) > MAX_BYTES:
        raise CertificatesInvalid(f"{what}: at most {MAX_BYTES} bytes")
    found = []
    for number, block in enumerate(_blocks(pem, what), 1):
        if number > MAX_CERTIFICATES:
            raise CertificatesInvalid(f"{what}: at most {MAX_CERTIFICATES} lists")
        found.append(_list(block, f"{what}: list {number}"))
    return tuple(found)


def _list(block: bytes, what: str) -> x509.CertificateRevocationList:
    """The list in a block. Its members are decoded here: the library does so when they are read, in the middle of a pass."""
    try:
        found = x509.load_pem_x509_crl(block)
        _ = found.issuer, found.last_update_utc, found.next_update_utc, found.extensions, len(found)
        found.get_revoked_certificate_by_serial_number(0)
    except UNREADABLE:
        raise CertificatesInvalid(f"{what} is not a well-formed X.509 CRL") from None
    return found


def checked_lists(
    lists: RevocationLists, issuers: Sequence[x509.Certificate], held: RevocationLists
) -> RevocationLists:
    """The lists to keep: those that an authority of `issuers` has signed, the newest of each; an older one never replaces one.

    Lists that are held of an issuer for which none is offered stay.
    """
    newest: dict[bytes, x509.CertificateRevocationList] = {}
    for each in (*held, *lists):
        issuer = next((one for one in issuers if one.subject == each.issuer and _is_signed(each, one)), None)
        if issuer is None:
            continue
        name = public_half(issuer.public_key())
        if name not in newest or _made(newest[name]) < _made(each):
            newest[name] = each
    return tuple(newest.values())


def _blocks(pem: bytes, what: str) -> Iterator[bytes]:
    at, pem = 0, pem.strip() + b"\n" if pem.strip() else b""
    while at < len(pem):
        block = _LIST.match(pem, at)
        if block is None:
            raise CertificatesInvalid(f"{what}: give only blocks from BEGIN X509 CRL to END X509 CRL")
        yield block[0]
        at = block.end()


def _is_signed(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def _made(found: x509.CertificateRevocationList) -> datetime:
    return found.last_update_utc
