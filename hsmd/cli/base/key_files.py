"""The files of a key that a TLS server loads: key reference and certificate chain."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.files import PUBLIC
from hsmd.deployment import pair
from hsmd.errors import BadRequest, NotFound, ProtocolError
from hsmd.protocol.messages import (
    MAX_PAGE,
    CertificateChains,
    CertificateExport,
    ChainPage,
    KeyInfo,
    KeyShow,
)
from hsmd.system import atomic_file, host_users

if TYPE_CHECKING:
    from hsmd.client import Client


WRITERS = 8
_OWNER_READS, _GROUP_READS = 0o600, 0o640
_GROUP = "ssl-cert"
"""Debian's group of programs that read the keys of TLS servers."""
KEEP_GROUP = -1


def readers(group: str) -> int:
    """The id of a group that may read key references; KEEP_GROUP if `group` is empty. Raises CommandError for an unknown one."""
    if not group:
        return KEEP_GROUP
    gid = host_users.gid_of(group)
    if gid is None:
        raise CommandError(f"--group: there is no group {group}", "correct the name", Exit.USAGE)
    return gid


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one key; `chain` is None if no certificate is stored."""

    name: str
    reference: Path
    chain: Path | None


def export_key(
    source: Client, name: str, directory: Path, *, timeout_s: float, group: int = KEEP_GROUP
) -> Exported:
    """Fetch key `name` and its chain, and write NAME.key (reference) and NAME.pem (chain) to `directory`.

    Raises HsmdError. If digest, public key and certificate do not match: ProtocolError, and nothing is written.
    """
    info: KeyInfo = source.control(KeyShow(name), timeout_s=timeout_s)
    if info.name != name:
        raise ProtocolError(f"the key received for {name} is another one")
    return write_key(info, _chain(source, info, timeout_s), directory, group)


def export_keys(
    source: Client, infos: Sequence[KeyInfo], directory: Path, *, timeout_s: float, group: int = KEEP_GROUP
) -> Iterator[Exported]:
    """As `export_key` for many keys, whose chains are fetched together. Files that are as they should be are not written."""
    with ThreadPoolExecutor(WRITERS) as writers:  # most of the time is that of syncing files
        for page in _pages(infos):
            chains = _chains(source, page, timeout_s)
            yield from writers.map(
                lambda info, chains=chains: write_key(info, chains.get(info.name, ""), directory, group), page
            )


def chains_of(source: Client, infos: Sequence[KeyInfo], *, timeout_s: float) -> dict[str, str]:
    """The certificate chains of these keys by name, of those that have one. Raises HsmdError."""
    return {name: chain for page in _pages(infos) for name, chain in _chains(source, page, timeout_s).items()}


def write_key(info: KeyInfo, chain: str, directory: Path, group: int = KEEP_GROUP) -> Exported:
    """Write the files of a key; `chain` is empty if it has none. Raises ProtocolError, without writing, if they do not match.

    A reference is no secret, but programs such as PostgreSQL and libpq refuse a key file that all may read: root and `group` may
    (KEEP_GROUP: the group that it has, else ssl-cert), or only the user, if that is not root.
    """
    from hsmd.client.keyref import KeyReference, encode

    try:
        pair.check_name(info.name)
    except BadRequest:
        raise ProtocolError(f"the name of the key {info.name[:64]!r} cannot be that of a file") from None
    if hashlib.sha256(info.public_key).hexdigest() != info.digest:
        raise ProtocolError(f"the public key received for {info.name} does not match its digest")
    _check_chain(info, chain)
    reference = directory / f"{info.name}.key"
    chain_file = directory / f"{info.name}.pem" if chain else None
    if chain_file is not None:
        _write(chain_file, chain, PUBLIC, os.getegid())
    text = encode(KeyReference(info.name, info.public_key))
    if os.geteuid() != 0 and group == KEEP_GROUP:
        _write(reference, text, _OWNER_READS, os.getegid())
    else:
        _write(reference, text, _GROUP_READS, _present_group(reference) if group == KEEP_GROUP else group)
    return Exported(info.name, reference, chain_file)


def _present_group(path: Path) -> int:
    """The group that may read a file: as it is, for one that only its group may read."""
    try:
        status = path.lstat()
    except OSError:
        return host_users.gid_of(_GROUP) or 0
    return status.st_gid if status.st_mode & 0o777 == _GROUP_READS else host_users.gid_of(_GROUP) or 0


def _write(path: Path, text: str, mode: int, group: int) -> None:
    try:
        status = path.lstat()
        is_same = (status.st_mode & 0o777, status.st_gid) == (mode, group)
        if is_same and not path.is_symlink() and path.read_text() == text:
            return
    except (OSError, UnicodeDecodeError):
        pass
    atomic_file.replace(path, text, mode, owner=(os.geteuid(), group))


def _check_chain(info: KeyInfo, pem: str) -> None:
    if not pem:
        return
    try:
        leaf = x509.load_pem_x509_certificates(pem.encode())[0]
    except (ValueError, IndexError, x509.InvalidVersion):
        raise ProtocolError(f"the chain received for {info.name} is not a PEM certificate") from None
    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != info.public_key:
        raise ProtocolError(f"the chain received is not for the key {info.name}")


def _chain(source: Client, key: KeyInfo, timeout_s: float) -> str:
    try:
        pem: str = source.control(CertificateExport(key.name), timeout_s=timeout_s).pem
    except NotFound:
        return ""
    return pem


def _chains(source: Client, infos: Sequence[KeyInfo], timeout_s: float) -> dict[str, str]:
    """The chains of these keys, from an agent of an earlier version one after the other."""
    wanted = [info.name for info in infos if info.certificate_not_after is not None]
    found: dict[str, str] = {}
    try:
        while wanted:
            page: ChainPage = source.control(CertificateChains(wanted), timeout_s=timeout_s)
            if page.answered < 1:
                raise ProtocolError("a page of certificate chains answers nothing")
            found |= {chain.key: chain.pem for chain in page.chains}
            wanted = wanted[page.answered :]
    except BadRequest:
        return {info.name: _chain(source, info, timeout_s) for info in infos if info.name in wanted}
    return found


def _pages(infos: Sequence[KeyInfo]) -> Iterator[Sequence[KeyInfo]]:
    return (infos[at : at + MAX_PAGE] for at in range(0, len(infos), MAX_PAGE))
