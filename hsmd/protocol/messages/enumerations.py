"""Strings with known values, as docs/control.md lists them.

Decoding does not check them: the daemon refuses a wrong value of a request with a text of its own, and a result may hold
values that a later release has added.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Meta

from hsmd.algorithms import KeyType
from hsmd.errors import ErrorCode
from hsmd.protocol.roles import Role
from hsmd.purposes import GROUPS, Purpose, labels


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A name, one sentence, and the values with what each means (empty where the sentence says it)."""

    name: str
    about: str
    values: dict[str, str]

    @property
    def meta(self) -> Meta:
        """For `Annotated[str, ...]`."""
        return Meta(extra={"enumeration": self})


ROLE = Enumeration(
    "Role",
    "What a client is to the daemon. A client has one or several roles; each right comes from one of them.",
    {
        Role.OPERATOR.value: "manages keys, clients and grants; uses no keys",
        Role.AUDITOR.value: "reads the state of the daemon and its audit log",
        Role.FRONT_END.value: "uses the keys on which it has grants",
        Role.OWNER.value: "reads what is known of the keys that it owns, and keeps keys in the vault",
        Role.CHECKER.value: "checks public keys of the vault for owners that allow it to all checkers",
        Role.NODE.value: "gets certificates and trust anchors from authorities that an operator has named for it",
        Role.DEPOSITARY.value: "no rights beyond those of every client yet; no operator can be one",
    },
)
CALLER_ROLE = Enumeration(
    "CallerRole",
    "The first of the caller's roles.",
    {
        **ROLE.values,
        "agent": "the answer comes from an agent, which does not tell the role of the client it connects as",
    },
)
KEY_TYPE = Enumeration(
    "KeyType",
    "The type and size of a key; EC keys are on the NIST curves.",
    {each.value: "" for each in KeyType},
)
STATEMENT_KEY_STATE = Enumeration(
    "StatementKeyState",
    "What a statement key is to the daemons.",
    {
        "signs": "they sign with it",
        "waits": "they sign with it once an operator has endorsed it",
        "former": "they signed with it",
    },
)
PURPOSE = Enumeration(
    "Purpose",
    "What a key may be used for; the data that each purpose accepts is in [protocol.md](protocol.md), section 3. A key "
    "signs, decrypts or unwraps: purposes of different kinds are not combined, nor `sign-message` and `sign-digest` with "
    "those of TLS.",
    {
        Purpose.TLS13_SERVER.label: "signatures of TLS 1.3 servers",
        Purpose.TLS13_CLIENT.label: "signatures of TLS 1.3 clients",
        Purpose.TLS12_SERVER.label: "signatures of TLS 1.2 servers",
        Purpose.TLS12_CLIENT.label: "signatures of TLS 1.2 clients",
        Purpose.TLS12_RSA_PREMASTER.label: "decryption for RSA key exchange of TLS 1.2, by RSA keys",
        Purpose.SIGN_MESSAGE.label: "signatures over any bytes",
        Purpose.SIGN_DIGEST.label: "signatures over digests, by keys other than `ed25519`",
        Purpose.X509_REQUEST.label: "certificate requests that the daemon makes, for `key.csr`; granted with `names` only. Keys "
        "that sign for TLS or sign messages always have it",
        Purpose.X509_SELF_SIGNED.label: "certificates that the daemon makes, for `cert.self-signed`; never granted. Keys that "
        "sign for TLS or sign messages always have it",
        Purpose.CHECKPOINT.label: "checkpoints of the audit log, by a key of the daemon that has no other purpose; never granted",
        Purpose.STATEMENT.label: "statements, by a key of the daemon that has no other purpose; never granted",
        Purpose.UNWRAP_KEY.label: "unwrapping of other keys inside the token, by RSA keys; never granted",
        Purpose.X509_AUTHORITY.label: "certificates, revocation lists and requests of an authority, by a key that has no other "
        "purpose, within the constraints in its ceiling ([authority.md](authority.md)); never granted",
    },
)
PURPOSE_OR_GROUP = Enumeration(
    "PurposeOrGroup",
    "A [Purpose](#purpose), or a group that stands for several of them:",
    {name: " and ".join(f"`{label}`" for label in labels(members)) for name, members in GROUPS.items()},
)
OUTCOME = Enumeration(
    "Outcome",
    "How a key operation ended: performed, or the name of an error ([protocol.md](protocol.md), section 5).",
    {"performed": "", **{each.name.lower().replace("_", "-"): "" for each in ErrorCode}},
)
TOKEN_STATE = Enumeration(
    "TokenState",
    "The state of a token.",
    {
        "ready": "a worker is logged in",
        "starting": "no worker is logged in yet, and one is expected soon",
        "away": "the token cannot be reached",
        "login-refused": "the token refused the PIN; no worker logs in until an operator clears it with `token.clear`",
    },
)
BREAKER_STATE = Enumeration(
    "BreakerState",
    "The state of a token's circuit breaker.",
    {
        "closed": "requests are carried out",
        "open": "a probe failed; requests fail at once",
        "probing": "a worker is started to probe the token; requests fail at once",
    },
)
LOGIN_STATE = Enumeration(
    "LoginState",
    "Whether a daemon logs in to a token.",
    {
        "waiting": "it waits for its turn to try the PIN",
        "trying": "one worker tries the PIN",
        "allowed": "the PIN was accepted; workers log in as they start",
        "stopped": "no worker logs in until an operator clears it with `token.clear`",
    },
)
KEY_FINDING = Enumeration(
    "KeyFinding",
    "What the daemon makes of a private key object in a token.",
    {
        "adoptable": "it can be adopted",
        "unsafe": "it can be adopted if its unsafe attributes are accepted",
        "reserved": "it is kept to replace the key of an authority, and can be adopted for nothing else",
        "served": "it has a ceiling and is served",
        "not-in-store": "the store does not list it as a key of this token, so no client can use it",
        "private-key-missing": "the token holds the ceiling of a key, and no private key that belongs to it",
        "not-served": "it belongs to a key that another object serves, or none: its ceiling is missing or names another one",
        "public-key-missing": "the token shows no public key that belongs to it; its certificate is needed",
        "unusable": "the token lets it do nothing that hsmd needs, or wants the PIN for each use",
        "unsupported": "hsmd serves no keys of its type",
    },
)
WORKER_STATE = Enumeration(
    "WorkerState",
    "The state of a worker process.",
    {
        "ready": "logged in and idle",
        "busy": "carries out operations",
        "spare": "logged in, and takes over when another worker is lost",
        "starting": "not logged in yet",
        "stalled": "has not finished an operation for a long time, and will be replaced",
    },
)
CERTIFICATE_STATE = Enumeration(
    "CertificateState",
    "How the certificate that is stored for a key stands, by the clock of the daemon.",
    {
        "not-yet-valid": "it begins later",
        "valid": "",
        "ending": "it ends within the days of the daemon's setting `certificates.warn_days`, or in the last fifth of its term "
        "if that is less",
        "ended": "it is not valid any more",
    },
)
CERTIFICATE_PROFILE = Enumeration(
    "CertificateProfile",
    "What a certificate that an authority issues is for.",
    {
        "server": "TLS servers (`serverAuth`)",
        "client": "TLS clients (`clientAuth`)",
        "server-client": "both",
        "issuing": "another authority",
        "unknown": "not known: it was revoked by its serial number alone",
    },
)
REVOCATION_REASON = Enumeration(
    "RevocationReason",
    "Why a certificate was revoked (RFC 5280, section 5.3.1); empty if it was not.",
    {
        "unspecified": "",
        "key-compromise": "another party may have the private key",
        "ca-compromise": "another party may have the private key of an authority",
        "affiliation-changed": "names have changed",
        "superseded": "another certificate has replaced it",
        "cessation-of-operation": "it is not used any more",
        "privilege-withdrawn": "its subject may not have it any more",
    },
)
WORKER_ROLE = Enumeration(
    "WorkerRole",
    "What a worker process is for.",
    {
        "signing": "it uses keys, or is a spare",
        "control": "it makes, lists and destroys keys",
    },
)
SEVERITY = Enumeration(
    "Severity",
    "How much a finding matters.",
    {
        "failing": "handshakes fail",
        "partial": "some handshakes fail: those with the keys that it names",
        "degraded": "handshakes work, but may not for long",
    },
)
LEVEL = Enumeration(
    "Level",
    "The health of a daemon or an agent: the worst [Severity](#severity) of its findings.",
    {"well": "there are no findings", **SEVERITY.values},
)
CONDITION = Enumeration(
    "Condition",
    "What a finding is.",
    {
        # of a daemon
        "stopping": "the daemon or agent is stopping and accepts nothing new",
        "token-away": "the token, or its PKCS#11 module, cannot be used",
        "token-starting": "no worker is logged in to the token yet",
        "pin-refused": "the token refused the PIN; no worker logs in until an operator clears it",
        "logins-stopped": "the token refused the PIN of a daemon; workers that are logged in go on",
        "log-not-writable": "the audit log cannot be written, so no key is used",
        "log-broken": "the audit log does not continue the one that the store knows, so no key is used",
        "disk-full": "too little disk space is left for the audit log, so no key is used",
        "disk-low": "little disk space is left for the audit log",
        "checkpoints-late": "records of the audit log are not covered by a signed checkpoint",
        "store-stale": "the store has been away for so long that no key is used",
        "store-away": "the store cannot be reached; nothing can be changed, and keys are used for a limited time",
        "list-ended": "the newest revocation list of an authority is not valid any more, or there is none",
        "list-ending": "the newest revocation list of an authority ends soon, and was not replaced",
        # of both
        "certificate-ended": "the certificate of a key is not valid any more",
        "certificate-ending": "the certificate of a key ends soon",
        # of an agent
        "no-daemon": "no daemon is connected",
        "daemon-away": "one of several daemons is not connected",
        "daemon-failing": "a daemon reports that handshakes fail, or may soon",
        "log-refused": "the audit log of a daemon does not continue what was seen of it, so it is not used",
        "no-key": "the agent knows no key that its client may use",
        "key-not-granted": "agent.toml names a key that is not granted to the agent's client",
        "keys-left-out": "the daemon grants more keys than an agent keeps",
    },
)
DAEMON_LINK_STATE = Enumeration(
    "DaemonLinkState",
    "How an agent stands with a daemon.",
    {
        "in-use": "connected; requests go there",
        "connected": "connected; requests go there if the daemon in use fails",
        "away": "not connected",
        "refused": "not used, because its audit log does not continue what was seen of it",
    },
)
SERVED_STATE = Enumeration(
    "ServedState",
    "Which certificate a front end serves for a key, as it has reported.",
    {
        "current": "the one that is stored for the key",
        "other": "another one, such as the one before",
        "unreported": "it has reported none; agents of earlier releases report nothing",
    },
)
REVOCATION_KIND = Enumeration(
    "RevocationKind",
    "What a revocation names.",
    {
        "key": "a public key, alone, in a certificate or as a CA; `value` is its fingerprint",
        "serial": "a certificate; `value` is its serial number",
        "key-id": "certificates; `value` is their key id",
    },
)
EVENT_KIND = Enumeration(
    "EventKind",
    "What an event tells.",
    {
        "certificate.replaced": "another certificate chain is stored for a key",
        "certificate.ending": "the certificate stored for a key ends soon, or has ended",
        "token.away": "a daemon cannot use a token",
        "token.back": "a daemon can use a token again",
        "logins.stopped": "a token refused the PIN; no daemon logs in until an operator clears it",
        "log.nearly-full": "little disk space is left for a daemon's audit log",
        "health.finding": "something makes handshakes fail at a daemon, or may soon",
        "health.cleared": "that has ended",
        "grant.exhausted": "a limited grant has been used for the last time",
        "client.enrolled": "a client has registered its key with a one-time token",
        "vault.registered": "a management key waits for an operator's confirmation",
        "vault.confirmed": "an operator has confirmed a management key",
        "vault.replaced": "an owner's management key is being replaced by the next one, or this is done",
        "vault.held": "the store was restored, and an owner's keys in the vault are held until they are confirmed again",
        "vault.expiring": "the term of a key in the vault ends soon",
        "vault.expired": "it has ended",
        "vault.exhausted": "a key in the vault has been given out as often as its owner allows",
        "vault.over-use": "it was asked for once more, for the first time",
        "vault.suspended": "the owner has suspended a key in the vault",
        "vault.resumed": "the owner has resumed it",
        "vault.revoked": "the owner has revoked a key in the vault",
        "vault.compromised": "the owner has declared a key in the vault compromised",
        "vault.destroyed": "the owner has destroyed a key in the vault",
        "events.missed": "events are missing here: see `reason` in its payload",
        "events.position": "nothing happened that the follower may read; it can go on from here",
    },
)
EVENTS_MISSED = Enumeration(
    "EventsMissed",
    "Why events are missing; empty if none are.",
    {
        "expired": "they are older than what is kept",
        "restored": "the store was restored from a backup, and what happened after the backup is lost",
        "unknown": "the cursor is not of this store; what follows begins with the oldest event that is kept",
    },
)
