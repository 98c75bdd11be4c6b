"""Control requests and their results: typed JSON documents inside control frames (docs/protocol.md, section 4).

Requests refuse unknown members, so that a daemon never acts on half of what a newer client meant; results tolerate them.
Times are RFC 3339 strings in UTC; keys are named by their name, never by position.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, TypeVar

import msgspec
from msgspec import Meta, Struct

from hsmd.errors import BadRequest, ProtocolError

MAX_PAGE = 500

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}\Z")]
"""Names of keys and clients: also SSH user names and certificate principals, so no character that needs quoting."""
Text = Annotated[str, Meta(max_length=256)]
PurposeLabel = Annotated[str, Meta(max_length=32)]
Pem = Annotated[str, Meta(max_length=60_000)]
DnsName = Annotated[str, Meta(max_length=253)]
Page = Annotated[int, Meta(ge=1, le=MAX_PAGE)]


class Request(Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True):
    """Base of all control requests. `Result` is the type of the answer."""

    Result: ClassVar[type[Struct]]


class Done(Struct):
    """The answer to a request that only changes something."""

    changed: bool = True


# --- about the connection and the daemon ---


class Identity(Struct):
    """Who the daemon takes the caller for."""

    client: str
    role: str
    credential: str
    daemon: str


class WhoAmI(Request, tag="whoami"):
    """Any role: who am I to you?"""

    Result: ClassVar = Identity


class WorkerStatus(Struct):
    """One token worker: `state` is ready, starting, busy or stalled."""

    pid: int
    state: str
    in_flight: int
    restarts: int


class TokenStatus(Struct):
    """One token and the workers on it."""

    name: str
    label: str
    serial: str
    state: str
    queued: int
    workers: list[WorkerStatus]
    abilities: list[str]


class DaemonStatus(Struct):
    """The state of a daemon; counters run since its start."""

    version: str
    started_at: datetime
    draining: bool
    connections: int
    tokens: list[TokenStatus]
    keys: int
    clients: int
    grants: int
    audit_records: int
    audit_head: str
    audit_writable: bool
    operations: dict[str, int]


class Status(Request, tag="status"):
    """Operator, auditor: how is the daemon?"""

    Result: ClassVar = DaemonStatus


# --- keys ---


class KeyInfo(Struct):
    """A key as the catalogue knows it; `digest` is the SHA-256 of `public_key` (DER SubjectPublicKeyInfo), in hex."""

    name: str
    key_type: str
    digest: str
    public_key: bytes
    purposes: list[str]
    token: str
    created_at: datetime
    certificate_not_after: datetime | None = None
    warnings: list[str] = []


class KeyPage(Struct):
    """Keys in the order of their names; `more` says that there are further ones."""

    keys: list[KeyInfo]
    more: bool


class KeyGenerate(Request, tag="key.generate"):
    """Operator: generate a key in the token; `purposes` is its ceiling for ever."""

    Result: ClassVar = KeyInfo
    name: Name
    key_type: Text
    purposes: list[PurposeLabel]
    token: Text = ""


class KeyCandidate(Struct):
    """A private key of the token that hsmd does not serve yet. `key_type` is empty where its public half is unknown."""

    cka_id: str
    cka_label: str
    key_type: str
    unsafe: list[str]


class KeyCandidateList(Struct):
    """The keys of one token that could be adopted."""

    token: str
    keys: list[KeyCandidate]


class KeyCandidates(Request, tag="key.candidates"):
    """Operator: which private keys of the token could be adopted, and what is unsafe about them?"""

    Result: ClassVar = KeyCandidateList
    token: Text = ""


class KeyAdopt(Request, tag="key.adopt"):
    """Operator: serve a key that is in the token already; named by its CKA_ID in hex, or by CKA_LABEL.

    `certificate` (PEM) gives the public half where the token has none. Unsafe attributes (extractable, not sensitive,
    may sign and decrypt, ...) are named, and refused unless `accept_unsafe`.
    """

    Result: ClassVar = KeyInfo
    name: Name
    purposes: list[PurposeLabel] = []
    token: Text = ""
    cka_id: Text = ""
    cka_label: Text = ""
    certificate: Pem = ""
    accept_unsafe: bool = False


class KeyList(Request, tag="key.list"):
    """Operator, auditor: all keys. Front end: the keys it has a grant on."""

    Result: ClassVar = KeyPage
    after: Text = ""
    limit: Page = 100


class KeyShow(Request, tag="key.show"):
    """Operator, auditor; front end for keys it has a grant on."""

    Result: ClassVar = KeyInfo
    name: Name


class KeyDestroy(Request, tag="key.destroy"):
    """Operator: destroy a key in the token for ever. `confirm` repeats the name."""

    Result: ClassVar = Done
    name: Name
    confirm: Text


class PemDocument(Struct):
    """A PEM document."""

    pem: str


class KeyRequest(Request, tag="key.csr"):
    """Operator: a PKCS#10 certificate request (RFC 2986) signed by the key."""

    Result: ClassVar = PemDocument
    name: Name
    common_name: Text = ""
    dns_names: list[DnsName] = []
    ip_addresses: list[Text] = []
    organization: Text = ""


# --- certificates ---


class CertificateImport(Request, tag="cert.import"):
    """Operator: store the chain (PEM, leaf first) that belongs to a key."""

    Result: ClassVar = KeyInfo
    key: Name
    chain: Pem


class CertificateSelfSigned(Request, tag="cert.self-signed"):
    """Operator: make and store a self-signed certificate for a key."""

    Result: ClassVar = PemDocument
    key: Name
    dns_names: list[DnsName]
    ip_addresses: list[Text] = []
    days: Annotated[int, Meta(ge=1, le=3660)] = 30


class CertificateExport(Request, tag="cert.export"):
    """Operator, auditor; front end for keys it has a grant on: the stored chain."""

    Result: ClassVar = PemDocument
    key: Name


# --- clients ---


class ClientInfo(Struct):
    """A client and the credentials it may come with (SHA-256 fingerprints as OpenSSH prints them)."""

    name: str
    role: str
    fingerprints: list[str]
    created_at: datetime


class ClientPage(Struct):
    """Clients in the order of their names."""

    clients: list[ClientInfo]
    more: bool


class ClientAdd(Request, tag="client.add"):
    """Operator: a new client, or a further key for one; `public_key` is one OpenSSH public key line, empty for a
    client that comes with certificates only."""

    Result: ClassVar = ClientInfo
    name: Name
    role: Text = "front-end"
    public_key: Annotated[str, Meta(max_length=2_000)] = ""


class ClientList(Request, tag="client.list"):
    """Operator, auditor."""

    Result: ClassVar = ClientPage
    after: Text = ""
    limit: Page = 100


class ClientRemove(Request, tag="client.remove"):
    """Operator: remove a client, its credentials and its grants; open connections of it are closed."""

    Result: ClassVar = Done
    name: Name


class ClientTrustCa(Request, tag="client.trust-ca"):
    """Operator: accept user certificates of this OpenSSH CA key for the named clients only."""

    Result: ClassVar = Done
    public_key: Annotated[str, Meta(max_length=2_000)]
    clients: list[Name]


# --- grants ---


class GrantInfo(Struct):
    """One client may use one key for these purposes."""

    client: str
    key: str
    purposes: list[str]


class GrantPage(Struct):
    """Grants in the order of client and key."""

    grants: list[GrantInfo]
    more: bool


class GrantAdd(Request, tag="grant.add"):
    """Operator: let a client use a key for these purposes too."""

    Result: ClassVar = GrantInfo
    client: Name
    key: Name
    purposes: list[PurposeLabel]


class GrantList(Request, tag="grant.list"):
    """Operator, auditor: all grants, or those of one client or one key."""

    Result: ClassVar = GrantPage
    client: Text = ""
    key: Text = ""
    after: Text = ""
    limit: Page = 100


class GrantRemove(Request, tag="grant.remove"):
    """Operator: take purposes back; none named means all."""

    Result: ClassVar = Done
    client: Name
    key: Name
    purposes: list[PurposeLabel] = []


class Explanation(Struct):
    """What the decision would be, and which rule decides."""

    allowed: bool
    rule: str


class GrantExplain(Request, tag="grant.explain"):
    """Operator, auditor: may this client use this key for this purpose, and why (not)?"""

    Result: ClassVar = Explanation
    client: Name
    key: Name
    purpose: PurposeLabel


# --- audit ---


class AuditPage(Struct):
    """Records as they stand in the log, one JSON line each, from index `first` on; `size` is the log's size."""

    first: int
    lines: list[str]
    size: int


class AuditRead(Request, tag="audit.read"):
    """Operator, auditor: records from an index on; a negative index counts from the end."""

    Result: ClassVar = AuditPage
    first: int = -100
    limit: Page = 100


REQUESTS: tuple[type[Request], ...] = (
    WhoAmI, Status,
    KeyGenerate, KeyCandidates, KeyAdopt, KeyList, KeyShow, KeyDestroy, KeyRequest,
    CertificateImport, CertificateSelfSigned, CertificateExport,
    ClientAdd, ClientList, ClientRemove, ClientTrustCa,
    GrantAdd, GrantList, GrantRemove, GrantExplain,
    AuditRead,
)  # fmt: skip

AnyRequest = (
    WhoAmI | Status
    | KeyGenerate | KeyCandidates | KeyAdopt | KeyList | KeyShow | KeyDestroy | KeyRequest
    | CertificateImport | CertificateSelfSigned | CertificateExport
    | ClientAdd | ClientList | ClientRemove | ClientTrustCa
    | GrantAdd | GrantList | GrantRemove | GrantExplain
    | AuditRead
)  # fmt: skip

_request_decoder = msgspec.json.Decoder(AnyRequest)
_encoder = msgspec.json.Encoder()


def encode_request(request: Request) -> bytes:
    """The JSON document of a request."""
    return _encoder.encode(request)


def decode_request(document: bytes) -> Request:
    """Raises BadRequest naming the member at fault."""
    try:
        request: Request = _request_decoder.decode(document)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"control request: {error}") from None
    except UnicodeDecodeError:  # msgspec lets it through, and it carries the bytes of the peer
        raise BadRequest("control request: a string is not UTF-8") from None
    except RecursionError:
        raise BadRequest("control request: nested too deeply") from None
    return request


def encode_result(result: Struct) -> bytes:
    """The JSON document of a result."""
    return _encoder.encode(result)


R = TypeVar("R", bound=Struct)


def decode_result(document: bytes, result_type: type[R]) -> R:
    """Raises ProtocolError if the server's answer is not of the type the request announces."""
    try:
        return msgspec.json.decode(document, type=result_type)
    except UnicodeDecodeError:
        raise ProtocolError("control result: a string is not UTF-8") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProtocolError(f"control result: {error}") from None
