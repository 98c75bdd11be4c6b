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
            ("created", when(info.created_at)),
            ("certificate until", when(info.certificate_not_after) or "(no certificate yet)"),
            ("warnings", "; ".join(info.warnings)),
        ]
    )
