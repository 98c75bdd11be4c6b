"""Control requests and their results: typed JSON documents inside control frames (docs/protocol.md, section 4).

Requests refuse unknown members, so that a daemon never acts on half of what a newer client meant; results tolerate them.
Times are RFC 3339 strings in UTC; keys are named by their name, never by position.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TypeVar

import msgspec
from msgspec import Struct

from hsmd.errors import BadRequest, ProtocolError
from hsmd.protocol.messages import audit, certificates, clients, grants, keys, metrics, state, tokens
from hsmd.protocol.messages.audit import (
    AuditAbout as AuditAbout,
    AuditCheckpoint as AuditCheckpoint,
    AuditDiscontinuity as AuditDiscontinuity,
    AuditLines as AuditLines,
    AuditPage as AuditPage,
    AuditProve as AuditProve,
    AuditRead as AuditRead,
    AuditSeal as AuditSeal,
    AuditSealed as AuditSealed,
    AuditStand as AuditStand,
    AuditStanding as AuditStanding,
    InclusionProof as InclusionProof,
    SignedCheckpoint as SignedCheckpoint,
)
from hsmd.protocol.messages.base import (
    MAX_PAGE as MAX_PAGE,
    DnsName as DnsName,
    Done as Done,
    Name as Name,
    Page as Page,
    Pem as Pem,
    PurposeLabel as PurposeLabel,
    Request as Request,
    Text as Text,
)
from hsmd.protocol.messages.certificates import (
    CertificateExport as CertificateExport,
    CertificateImport as CertificateImport,
    CertificateSelfSigned as CertificateSelfSigned,
)
from hsmd.protocol.messages.clients import (
    ClientAdd as ClientAdd,
    ClientDistrustCa as ClientDistrustCa,
    ClientEnroll as ClientEnroll,
    ClientInfo as ClientInfo,
    ClientList as ClientList,
    ClientPage as ClientPage,
    ClientRemove as ClientRemove,
    ClientRename as ClientRename,
    ClientRevoke as ClientRevoke,
    ClientRevoked as ClientRevoked,
    ClientRotateKey as ClientRotateKey,
    ClientTrustCa as ClientTrustCa,
    EnrolmentTicket as EnrolmentTicket,
    Revocation as Revocation,
    RevocationPage as RevocationPage,
    WantedGrant as WantedGrant,
)
from hsmd.protocol.messages.grants import (
    Explanation as Explanation,
    GrantAdd as GrantAdd,
    GrantExplain as GrantExplain,
    GrantInfo as GrantInfo,
    GrantList as GrantList,
    GrantPage as GrantPage,
    GrantRemove as GrantRemove,
)
from hsmd.protocol.messages.keys import (
    KeyAdopt as KeyAdopt,
    KeyCandidate as KeyCandidate,
    KeyCandidateList as KeyCandidateList,
    KeyCandidates as KeyCandidates,
    KeyDestroy as KeyDestroy,
    KeyGenerate as KeyGenerate,
    KeyInfo as KeyInfo,
    KeyList as KeyList,
    KeyOwner as KeyOwner,
    KeyOwnerAdd as KeyOwnerAdd,
    KeyOwnerList as KeyOwnerList,
    KeyOwnerRemove as KeyOwnerRemove,
    KeyOwners as KeyOwners,
    KeyPage as KeyPage,
    KeyRename as KeyRename,
    KeyRequest as KeyRequest,
    KeyShow as KeyShow,
    PemDocument as PemDocument,
)
from hsmd.protocol.messages.metrics import (
    Latency as Latency,
    Metrics as Metrics,
    MetricsRead as MetricsRead,
    UseCount as UseCount,
)
from hsmd.protocol.messages.state import (
    DaemonStatus as DaemonStatus,
    Identity as Identity,
    Status as Status,
    TokenStatus as TokenStatus,
    WhoAmI as WhoAmI,
    WorkerStatus as WorkerStatus,
)
from hsmd.protocol.messages.tokens import (
    TokenClear as TokenClear,
    TokenInfo as TokenInfo,
    TokenInfoList as TokenInfoList,
    TokenList as TokenList,
)

REQUESTS: tuple[type[Request], ...] = (
    *state.REQUESTS,
    *metrics.REQUESTS,
    *keys.REQUESTS,
    *certificates.REQUESTS,
    *clients.REQUESTS,
    *grants.REQUESTS,
    *tokens.REQUESTS,
    *audit.REQUESTS,
)

_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(reduce(or_, REQUESTS))
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
