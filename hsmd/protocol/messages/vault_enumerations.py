"""Strings with known values in requests of the vault, as docs/control.md lists them."""

from __future__ import annotations

from hsmd.protocol.messages.enumerations import Enumeration

__all__ = [
    "MANAGEMENT_KEY_STATE",
    "POSSESSION_KIND",
    "PROOF_KIND",
    "VAULT_KEY_KIND",
    "VAULT_MODE",
    "VAULT_REASON",
    "VAULT_STATE",
    "VAULT_VERDICT",
]

MANAGEMENT_KEY_STATE = Enumeration(
    "ManagementKeyState",
    "What a management key is to the daemons.",
    {
        "pending": "an operator has not confirmed it",
        "active": "proofs, statements and new deposits are made with it",
        "replaced": "another one is active; deposits that are not wrapped anew can be taken out, and are opened with it",
        "retired": "another one is active, and no deposit is left under it",
        "lost": "an operator has confirmed another one that this one does not vouch for; deposits under it are not given out",
    },
)
PROOF_KIND = Enumeration(
    "ProofKind",
    "How a management key proves a request.",
    {
        "signature": "by the signing key, over the proof's text",
        "opened": "HMAC-SHA256 of the proof's text, with the secret that the challenge has sealed to the wrapping key",
    },
)
POSSESSION_KIND = Enumeration(
    "PossessionKind",
    "How a deposited private key is shown to belong to the public key.",
    {
        "signature": "it has signed the text of the possession",
        "opened": "it has opened a secret that the challenge has sealed to it, for keys that do not sign",
    },
)
VAULT_KEY_KIND = Enumeration(
    "VaultKeyKind",
    "What is in an envelope.",
    {"private-key": "a private key, with its public half in the vault", "secret-key": "a symmetric key"},
)
VAULT_MODE = Enumeration(
    "VaultMode",
    "What a maximum of uses does. A term is always enforced.",
    {
        "notify": "uses beyond it are announced, and given out",
        "deny": "uses beyond it are announced, and refused",
    },
)
VAULT_STATE = Enumeration(
    "VaultState",
    "Where a version of a record is in its life, as the daemon judges it now (NIST SP 800-57, part 1, section 7).",
    {
        "pre-active": "its term has not begun",
        "active": "it may be used",
        "suspended": "it may not be used until its owner resumes it",
        "deactivated": "it has ended, is used up, or a newer version is there",
        "compromised": "its owner says that others may know the key",
        "destroyed": "its envelope was deleted; public half and history are left",
        "destroyed-compromised": "both",
    },
)
VAULT_REASON = Enumeration(
    "VaultReason",
    "Why a version is in its [VaultState](#vaultstate).",
    {
        "none": "it is simply active",
        "not-yet": "its term has not begun",
        "expired": "its term has ended",
        "limit": "its uses are used up",
        "superseded": "a newer version is there; this one is given out within its limits",
        "owner": "the owner has revoked or destroyed it, or says that it is compromised",
        "suspended": "the owner has suspended it",
        "restored": "the store was restored from a backup, and later uses are not known; the owner states the limits anew",
        "lost-management-key": "the management key that it is wrapped for was lost",
    },
)
VAULT_VERDICT = Enumeration(
    "VaultVerdict",
    "Whether a public key is one that the owner has deposited.",
    {
        "match": "it is the newest version of a record",
        "match-previous": "it is an earlier version of a record",
        "mismatch": "the owner has deposited no such key",
        "no-answer": "the caller may not ask, there is no such owner, or it has no confirmed management key",
    },
)
