"""The control worker's operations: generate, adopt, destroy, describe and list keys, open and make envelopes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pkcs11
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import InvalidVersion, load_pem_x509_certificate
from pkcs11 import Attribute

from hsmd.algorithms import KeyType
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import AnyRequest, Destroy, Generate, KeyDescription, Unwrap
from hsmd.daemon.worker import ceilings, key_adoption, key_objects, private_keys, unfinished_keys
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_findings import key_findings
from hsmd.daemon.worker.key_pairs import KeyPairs
from hsmd.daemon.worker.listings import Listings
from hsmd.daemon.worker.wrapped_keys import WrappedKeys
from hsmd.errors import BadRequest, TokenFailure
from hsmd.pkcs11 import mechanisms, templates, wrapping_probe
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import OpenToken, can_write
from hsmd.protocol.messages import Done
from hsmd.purposes import Purpose, check_ceiling, expand, labels
from hsmd.purposes.ceiling_constraints import constraints_by_label

WRITE_PROTECTED = (
    "the token is write-protected, so no key can be made, adopted or destroyed in it: remove the protection with the tool of its "
    "vendor, then try again. Keys that have a ceiling are served"
)


class ControlOperations:
    """Carries out control requests on a read-write session, or what a write-protected token allows on a read-only one.

    Raises HsmdError and PKCS11Error."""

    def __init__(self, token: OpenToken, wall_clock: Callable[[], float] = time.time) -> None:
        """Tries what the token does with wrapped keys, and destroys what killed workers have left."""
        self._token = token
        self._session = token.session
        self._wall_clock = wall_clock
        self._outdated = ""
        self._descriptions: Listings[KeyDescription] = Listings()
        self._candidate_lists: Listings[worker_messages.Candidate] = Listings()
        found = wrapping_probe.probe(token.session)
        self.wrapping = list(found.abilities)
        self._wrapped_keys = WrappedKeys(token.session, found)
        self.cleaned = 0 if token.write_protected else _clean(token.session, wall_clock())

    @property
    def outdated(self) -> str:
        """Why a fresh worker must replace this one, empty if none need."""
        return self._outdated

    def handle(self, request: AnyRequest) -> object:
        """The result of a request."""
        try:
            if isinstance(request, Generate | Destroy) or (isinstance(request, Unwrap) and request.keep):
                self._require_writable()
            return self._handle(request)
        except (pkcs11.SessionReadOnly, pkcs11.TokenWriteProtected):
            self._require_writable()
            raise TokenFailure(WRITE_PROTECTED) from None

    def _require_writable(self) -> None:
        """Raises TokenFailure if the session only reads. If the protection is gone, the next worker's session can write."""
        if not self._token.write_protected:
            return
        if can_write(self._session):
            self._outdated = "the token is no longer write-protected"
            raise TokenFailure("the token was write-protected until now and no longer is: try again")
        raise TokenFailure(WRITE_PROTECTED)

    def _handle(self, request: AnyRequest) -> object:
        match request:
            case worker_messages.Generate():
                return self._generate(request)
            case worker_messages.Adopt():
                return self._adopt(request)
            case worker_messages.Destroy():
                return Done(changed=key_objects.destroy(self._session, bytes.fromhex(request.key)))
            case worker_messages.Describe():
                return self._describe(request)
            case worker_messages.Candidates():
                return self._candidates(request)
            case worker_messages.Unwrap():
                return self._unwrap(request)
            case worker_messages.Wrap():
                return self._wrapped_keys.wrap(request)

    def _generate(self, request: worker_messages.Generate) -> KeyDescription:
        try:
            key_type = KeyType(request.key_type)
        except ValueError:
            raise BadRequest(f"key_type: choose one of {', '.join(kind.value for kind in KeyType)}") from None
        purposes = expand(request.purposes)
        check_ceiling(key_type, purposes)
        self._check_ability(key_type, purposes)
        constraints = constraints_by_label(purposes, request.constraints)
        make = key_objects.generate_reserve if request.reserve else key_objects.generate
        ceiling = make(self._session, request.name, key_type, purposes, constraints)
        return describe(ceiling, request.name, [])

    def _adopt(self, request: worker_messages.Adopt) -> KeyDescription:
        digest, purposes = _digest(request), expand(request.purposes)
        private, half = key_adoption.find_pair(
            self._session,
            cka_id=bytes.fromhex(request.cka_id),
            cka_label=request.cka_label,
            digest=digest,
            certified=_certified(request.certificate) if request.certificate else None,
        )
        ceiling, unsafe = key_adoption.adopt(
            self._session,
            private,
            half,
            purposes,
            accept_unsafe=request.accept_unsafe,
            constraints=constraints_by_label(purposes, request.constraints),
        )
        return describe(ceiling, private[Attribute.LABEL], unsafe)

    def _unwrap(self, request: worker_messages.Unwrap) -> KeyDescription:
        ceiling = self._wrapped_keys.unwrap(request, expand(request.purposes), self._wall_clock())
        return describe(ceiling, request.name if request.keep else "", [])

    def _describe(self, request: worker_messages.Describe) -> worker_messages.KeyDescriptions:
        page = self._descriptions.page(
            request.cursor, lambda: _descriptions(self._session, brief=request.brief), whole=not request.brief
        )
        return worker_messages.KeyDescriptions(page.items, page.cursor)

    def _candidates(self, request: worker_messages.Candidates) -> worker_messages.CandidateList:
        page = self._candidate_lists.page(
            request.cursor, lambda: key_findings(self._session, served=request.served)
        )
        return worker_messages.CandidateList(page.items, page.cursor)

    def _check_ability(self, key_type: KeyType, purposes: frozenset[Purpose]) -> None:
        needed = mechanisms.needed(key_type, purposes) | {mechanisms.generation(key_type)}
        if missing := needed - self._token.mechanisms:
            names = ", ".join(sorted(mechanism.name for mechanism in missing))
            raise BadRequest(f"key_type: the token has no {names}; choose another type or purpose")


def describe(
    ceiling: Ceiling, cka_label: str, warnings: list[str], problem: str = "", *, brief: bool = False
) -> KeyDescription:
    """The description of a key with a ceiling that is sent to the front; `problem` says why it is not served.

    With `brief` without the public key.
    """
    half = ceiling.half
    return KeyDescription(
        key=half.digest.hex(),
        key_type=half.key_type.value,
        public_key=b"" if brief else half.spki,
        purposes=labels(ceiling.purposes),
        cka_id=ceiling.cka_id.hex(),
        cka_label=cka_label,
        warnings=[*warnings, *([problem] if problem else [])],
        problem=problem,
    )


def _descriptions(session: Any, *, brief: bool) -> Iterator[KeyDescription | None]:
    """The keys that have a ceiling, in order of digest."""
    found = yield from ceilings.reading_all(session)
    privates = yield from private_keys.reading_by_id(session)
    pairs = KeyPairs()
    for digest in sorted(found):
        ceiling = found[digest]
        served = pairs.private_key(ceiling, privates.get(ceiling.cka_id, []))
        if brief or served.private is None:
            yield describe(ceiling, "", [], served.problem, brief=brief)
        else:
            label, unsafe = served.private[Attribute.LABEL], templates.unsafe_attributes(served.private)
            yield describe(ceiling, label, unsafe)


def _clean(session: Any, now: float) -> int:
    """The number of unfinished keys that were destroyed. A token that fails here shows it again at the next request."""
    try:
        return unfinished_keys.clean(session, now)
    except pkcs11.PKCS11Error:
        return 0


def _digest(request: worker_messages.Adopt) -> bytes:
    named = sum([bool(request.cka_id), bool(request.cka_label), bool(request.key)])
    if named != 1 and not (named == 0 and request.certificate):
        raise BadRequest("cka_id: name the key by exactly one of cka_id, cka_label and key")
    try:
        return bytes.fromhex(request.key)
    except ValueError:
        raise BadRequest("key: must be the SHA-256 of the public key in hex") from None


def _certified(pem: str) -> PublicHalf:
    try:
        public_key = load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, InvalidVersion, UnsupportedAlgorithm):
        raise BadRequest("certificate: is not an X.509 certificate in PEM") from None
    half = PublicHalf.of(public_key)
    if half is None:
        raise BadRequest(f"certificate: its key is none of {', '.join(kind.value for kind in KeyType)}")
    return half
