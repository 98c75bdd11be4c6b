"""What a backup of the store knows of counts and of logs: what an audit log is compared with when uses are recounted."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from hsmd.daemon.store import portable
from hsmd.errors import StoreFailure

Version = tuple[str, str, int]
"""Owner, record and number of a version of a key in the vault."""
Grant = tuple[int, str]
"""Row id of a limited grant, and digest of its key in hex: after a restore the id may be given to another grant."""


@dataclass(frozen=True, slots=True)
class KnownCounts:
    """`versions`: their row ids. `logs`: by origin, how many records the newest checkpoint that the store knew covers.

    `grants`: the row ids of the counts of limited grants.
    """

    versions: dict[Version, int]
    logs: dict[str, int]
    grants: dict[Grant, int] = field(default_factory=dict)

    @classmethod
    def of(cls, document: bytes) -> KnownCounts:
        """What an export of a store says; one of an earlier release may know neither. Raises StoreFailure if it is damaged."""
        tables = portable.decode(document).tables
        try:
            # Of two owners of one name, the one that was removed has only destroyed keys.
            owners = sorted(tables.get("vault_owners", []), key=lambda row: row["client_id"] is not None)
            names = {row["id"]: row["name"] for row in tables.get("vault_records", [])}
            numbered = {row["owner_id"]: (at, row["name"]) for at, row in enumerate(owners)}
            rows = sorted(tables.get("vault_versions", []), key=lambda row: numbered[row["owner_id"]][0])
            versions = {
                (numbered[row["owner_id"]][1], names[row["record_id"]], row["version"]): row["id"]
                for row in rows
            }
            logs = {row["origin"]: row["size"] for row in tables.get("audit_heads", [])}
            return cls(versions, logs, _grants(tables))
        except (KeyError, TypeError, binascii.Error):
            raise StoreFailure(
                "the backup of the store is damaged", detail="its rows of counts are malformed"
            ) from None


def _grants(tables: dict[str, list[dict[str, Any]]]) -> dict[Grant, int]:
    digests = {
        row["id"]: base64.b64decode(row["key_digest"]["bytes"], validate=True).hex()
        for row in tables.get("grant_uses", [])
    }
    return {(row["id"], digests[row["uses_id"]]): row["uses_id"] for row in tables.get("limited_grants", [])}
