"""A key as text, for `hsmd key` and `hsmd cert`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmd.cli.base.output import fields, when
from hsmd.protocol.messages import (
    KeyInfo,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


def describe(info: KeyInfo) -> RenderableType:
    """Table of the properties of a key."""
    return fields(
        [
            ("name", info.name),
            ("type", info.key_type),
            ("purposes", ", ".join(info.purposes)),
            ("token", info.token),
            ("public key", f"SHA-256 {info.digest}"),
            *([("owner", owner_text(info.owner, removed=info.owner_removed))] if info.owner else []),
            ("created", when(info.created_at)),
            ("certificate until", when(info.certificate_not_after) or "(no certificate yet)"),
            ("warnings", "; ".join(info.warnings)),
        ]
    )


def owner_text(name: str, *, removed: bool) -> str:
    """The owner of a key; empty if it has none."""
    return f"{name} (removed)" if removed else name
