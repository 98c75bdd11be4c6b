"""The rules that decide: stable short names for log and audit records, and a sentence for operators."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """Short names, which are never reused with another meaning. They are not sent to front ends."""

    GRANTED = "granted"
    # identifying the client
    UNKNOWN_CLIENT = "unknown-client"
    WITHDRAWN_CREDENTIAL = "withdrawn-credential"
    UNKNOWN_CA = "unknown-ca"
    CA_NOT_FOR_CLIENT = "ca-not-for-client"
    NOT_ONE_PRINCIPAL = "not-one-principal"
    PRINCIPAL_MISMATCH = "principal-mismatch"
    CERTIFICATE_NOT_YET_VALID = "certificate-not-yet-valid"
    EXPIRED_CERTIFICATE = "expired-certificate"
    LIFETIME_TOO_LONG = "lifetime-too-long"
    REVOKED = "revoked"
    UNKNOWN_CRITICAL_OPTION = "unknown-critical-option"
    SOURCE_ADDRESS = "source-address"
    # permissions
    WRONG_ROLE = "wrong-role"
    UNKNOWN_KEY = "unknown-key"
    NO_GRANT = "no-grant"
    PURPOSE_NOT_GRANTABLE = "purpose-not-grantable"
    PURPOSE_OUTSIDE_CEILING = "purpose-outside-ceiling"
    PURPOSE_NOT_GRANTED = "purpose-not-granted"
    # limits of a grant
    GRANT_EXPIRED = "grant-expired"
    GRANT_EXHAUSTED = "grant-exhausted"
    GRANT_HELD = "grant-held"
    # for a while
    PENALISED = "penalised"

    @property
    def text(self) -> str:
        """One sentence for an operator, with the next step where there is one."""
        return _TEXTS[self]


_TEXTS: dict[Rule, str] = {
    Rule.GRANTED: "a grant covers it",
    Rule.UNKNOWN_CLIENT: "there is no client of that name; add it with `hsmd client add`",
    Rule.WITHDRAWN_CREDENTIAL: "the credential or a role was removed from the client; connect again",
    Rule.UNKNOWN_CA: "the CA is not trusted for any client; name its clients with `hsmd client trust-user-ca`",
    Rule.CA_NOT_FOR_CLIENT: "the CA is not trusted for this client; name the client with `hsmd client trust-user-ca`",
    Rule.NOT_ONE_PRINCIPAL: "a certificate must name exactly one principal; issue it with ssh-keygen -n CLIENT",
    Rule.PRINCIPAL_MISMATCH: "the principal is not exactly the SSH user name",
    Rule.CERTIFICATE_NOT_YET_VALID: "the certificate is not valid yet; check the clocks of the CA and the daemon",
    Rule.EXPIRED_CERTIFICATE: "the certificate has expired; issue a new one",
    Rule.LIFETIME_TOO_LONG: "the certificate is valid for longer than is accepted from this CA; see trust-user-ca",
    Rule.REVOKED: "the key or certificate was revoked, which is permanent; make a new one",
    Rule.UNKNOWN_CRITICAL_OPTION: "the certificate has a critical option other than source-address; issue it without that option",
    Rule.SOURCE_ADDRESS: "the certificate's critical option source-address does not allow this address",
    Rule.WRONG_ROLE: "no role of the client allows it; only front ends use keys, only operators change the configuration",
    Rule.UNKNOWN_KEY: "there is no key of that name; `hsmd key list` shows the existing ones",
    Rule.NO_GRANT: "the client has no grant on this key; add one with `hsmd grant add`",
    Rule.PURPOSE_NOT_GRANTABLE: "this purpose cannot be granted; only the daemon itself uses keys for it",
    Rule.PURPOSE_OUTSIDE_CEILING: "the key's purposes, fixed when it was generated, adopted or imported, do not include this one",
    Rule.PURPOSE_NOT_GRANTED: "the client's grant on this key does not include this purpose; add it with `hsmd grant add`",
    Rule.GRANT_EXPIRED: "the time until which this was granted has passed; give a later one with `hsmd grant add --not-after`",
    Rule.GRANT_EXHAUSTED: "the uses granted are used up; give a higher total with `hsmd grant add --max-uses`",
    Rule.GRANT_HELD: "after a restore the uses are not known; see `hsmd audit show`, then `hsmd grant add --max-uses`",
    Rule.PENALISED: "requests of this client for this key have crashed token workers; they are refused for a while",
}


@dataclass(frozen=True, slots=True)
class Denial:
    """A negative decision; `rule` is for the log, audit records and explanations, and is not sent to the peer."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would be decided; `rule` is the rule's short name and its sentence."""

    allowed: bool
    rule: str

    @classmethod
    def of(cls, rule: Rule) -> Explanation:
        """The explanation of a rule; only `granted` allows."""
        return cls(rule is Rule.GRANTED, f"{rule.value}: {rule.text}")
