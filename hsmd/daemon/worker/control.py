"""The control worker's operations: generate, adopt, destroy, describe and list keys."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import load_pem_x509_certificate
from pkcs11 import Attribute

from hsmd.algorithms import KeyType
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import AnyRequest, KeyDescription
from hsmd.daemon.worker import ceilings, key_adoption, key_objects
from hsmd.daemon.worker.ceilings import Ceiling
from hsmd.daemon.worker.key_index import private_keys_by_id, the_private_key
from hsmd.errors import BadRequest
from hsmd.pkcs11 import mechanisms, templates
from hsmd.pkcs11.public_keys import PublicHalf
from hsmd.pkcs11.session import OpenToken
from hsmd.protocol.messages import Done
from hsmd.purposes import Purpose, check_ceiling, expand, labels


class ControlOperations:
    """Carries out control requests on a read-write session. Raises HsmdError and PKCS11Error."""

    def __init__(self, token: OpenToken) -> None:
        self._token = token
        self._session = token.session

    def handle(self, request: AnyRequest) -> object:
        """The result of a request."""
        match request:
            case worker_messages.Generate():
                return self._generate(request)
            case worker_messages.Adopt():
                return self._adopt(request)
            case worker_messages.Destroy():
                return Done(changed=key_objects.destroy(self._session, bytes.fromhex(request.key)))
            case worker_messages.Describe():
                return self._describe()
            case worker_messages.Candidates():
                return self._candidates()

    def _generate(self, request: worker_messages.Generate) -> KeyDescription:
        try:
            key_type = KeyType(request.key_type)
        except ValueError:
            raise BadRequest(f"key_type: choose one of {', '.join(kind.value for kind in KeyType)}") from None
        purposes = expand(request.purposes)
        check_ceiling(key_type, purposes)
        self._check_ability(key_type, purposes)
        ceiling = key_objects.generate(self._session, request.name, key_type, purposes)
        return describe(ceiling, request.name, [])

    def _adopt(self, request: worker_messages.Adopt) -> KeyDescription:
        private = key_adoption.find_private(
            self._session,
            cka_id=bytes.fromhex(request.cka_id),
            cka_label=request.cka_label,
            digest=_digest(request),
        )
        purposes = expand(request.purposes)
        certified = _certified(request.certificate) if request.certificate else None
        ceiling, unsafe = key_adoption.adopt(
            self._session, private, certified, purposes, accept_unsafe=request.accept_unsafe
        )
        return describe(ceiling, private[Attribute.LABEL], unsafe)

    def _describe(self) -> worker_messages.KeyDescriptions:
        found = ceilings.read_all(self._session)
        privates = private_keys_by_id(self._session)
        described = []
        for digest in sorted(found):
            ceiling = found[digest]
            private = the_private_key(privates.get(ceiling.cka_id, []), ceiling)
            if private is None:
                described.append(describe(ceiling, "", [worker_messages.NO_PRIVATE_KEY]))
            else:
                described.append(
                    describe(ceiling, private[Attribute.LABEL], templates.unsafe_attributes(private))
                )
        return worker_messages.KeyDescriptions(described)

    def _candidates(self) -> worker_messages.CandidateList:
        served = ceilings.read_all(self._session)
        found = []
        for cka_id, privates in sorted(private_keys_by_id(self._session).items()):
            for private in privates:
                half = key_adoption.shown_half(self._session, private)
                if half is not None and half.digest in served:
                    continue
                found.append(
                    worker_messages.Candidate(
                        cka_id=cka_id.hex(),
                        cka_label=private[Attribute.LABEL],
                        key_type=half.key_type.value if half else "",
                        key=half.digest.hex() if half else "",
                        unsafe=templates.unsafe_attributes(private),
                    )
                )
        return worker_messages.CandidateList(found)

    def _check_ability(self, key_type: KeyType, purposes: frozenset[Purpose]) -> None:
        needed = mechanisms.needed(key_type, purposes) | {mechanisms.generation(key_type)}
        if missing := needed - self._token.mechanisms:
            names = ", ".join(sorted(mechanism.name for mechanism in missing))
            raise BadRequest(f"key_type: the token has no {names}; choose another type or purpose")


def describe(ceiling: Ceiling, cka_label: str, warnings: list[str]) -> KeyDescription:
    """The description of a served key that is sent to the front."""
    half = ceiling.half
    return KeyDescription(
        key=half.digest.hex(),
        key_type=half.key_type.value,
        public_key=half.spki,
        purposes=labels(ceiling.purposes),
        cka_id=ceiling.cka_id.hex(),
        cka_label=cka_label,
        warnings=warnings,
    )


def _digest(request: worker_messages.Adopt) -> bytes:
    if sum([bool(request.cka_id), bool(request.cka_label), bool(request.key)]) != 1:
        raise BadRequest("cka_id: name the key by exactly one of cka_id, cka_label and key")
    try:
        return bytes.fromhex(request.key)
    except ValueError:
        raise BadRequest("key: must be the SHA-256 of the public key in hex") from None


def _certified(pem: str) -> PublicHalf:
    try:
        public_key = load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise BadRequest("certificate: is not an X.509 certificate in PEM") from None
    half = PublicHalf.of(public_key)
    if half is None:
        raise BadRequest(f"certificate: its key is none of {', '.join(kind.value for kind in KeyType)}")
    return half
