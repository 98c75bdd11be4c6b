"""The rules a decision can name: stable short names for log and audit, and what they say to a person."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """Short names; never reused for something else. Front ends never see them."""

    GRANTED = "granted"
    # who are you
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
    # may you
    WRONG_ROLE = "wrong-role"
    UNKNOWN_KEY = "unknown-key"
    NO_GRANT = "no-grant"
    PURPOSE_NOT_GRANTABLE = "purpose-not-grantable"
    PURPOSE_OUTSIDE_CEILING = "purpose-outside-ceiling"
    PURPOSE_NOT_GRANTED = "purpose-not-granted"
    # not now
    PENALISED = "penalised"

    @property
    def text(self) -> str:
        """One sentence for an operator, with the fix where there is one."""
        return _TEXTS[self]


_TEXTS: dict[Rule, str] = {
    Rule.GRANTED: "a grant covers it",
    Rule.UNKNOWN_CLIENT: "no client of that name; add it with client add",
    Rule.WITHDRAWN_CREDENTIAL: "the client lost this credential or changed its role; connect again",
    Rule.UNKNOWN_CA: "no client may come with certificates of this CA; name its clients with client trust-ca",
    Rule.CA_NOT_FOR_CLIENT: "its CA is not trusted for this client; name the client with client trust-ca",
    Rule.NOT_ONE_PRINCIPAL: "a certificate names exactly one principal; issue it with ssh-keygen -n CLIENT",
    Rule.PRINCIPAL_MISMATCH: "the principal is not the SSH user name letter for letter",
    Rule.CERTIFICATE_NOT_YET_VALID: "the certificate is not valid yet; check the clocks of CA and daemon",
    Rule.EXPIRED_CERTIFICATE: "the certificate has ended; issue a new one",
    Rule.LIFETIME_TOO_LONG: "the certificate is valid for longer than this CA may make them; see client trust-ca",
    Rule.REVOKED: "the key or certificate was revoked, which is for ever; make a new one",
    Rule.UNKNOWN_CRITICAL_OPTION: "it has a critical option other than source-address; issue it without",
    Rule.SOURCE_ADDRESS: "its critical option source-address does not allow this address",
    Rule.WRONG_ROLE: "the role does not allow it; only front ends use keys, only operators change things",
    Rule.UNKNOWN_KEY: "no such key",
    Rule.NO_GRANT: "the client has no grant on this key; add one with grant add",
    Rule.PURPOSE_NOT_GRANTABLE: "no front end can hold this purpose; the daemon keeps it to itself",
    Rule.PURPOSE_OUTSIDE_CEILING: "the key's ceiling, fixed when it was made, does not hold this purpose",
    Rule.PURPOSE_NOT_GRANTED: "the grant on this key does not hold this purpose; add it with grant add",
    Rule.PENALISED: "the client's uses of this key have crashed token workers; it is refused for a while",
}


@dataclass(frozen=True, slots=True)
class Denial:
    """A decision against; `rule` is for log, audit and explanations, never for the peer."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the decision would be; `rule` is the rule's short name and its sentence."""

    allowed: bool
    rule: str

    @classmethod
    def of(cls, rule: Rule) -> Explanation:
        """The explanation of a rule; only `granted` allows."""
        return cls(rule is Rule.GRANTED, f"{rule.value}: {rule.text}")
