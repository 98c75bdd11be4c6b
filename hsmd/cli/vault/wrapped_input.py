"""A wrapped key in a file, which `hsmd vault put` deposits: what the command line says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmd.cli.base import input_files
from hsmd.cli.base.errors import CommandError, Exit

if TYPE_CHECKING:
    from hsmd.holder.deposits import KeyToDeposit
    from hsmd.holder.management_keys import ManagementKey


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The content of the file, the name of its suite (empty: that of the management key), and what is in it."""

    data: bytes
    suite: str
    spki: bytes
    """Public half of the private key in it; empty for a symmetric key."""

    def opened(self, key: ManagementKey) -> KeyToDeposit:
        """The key in it. Raises BadRequest."""
        from hsmd.holder import wrapped_keys

        if self.spki:
            return wrapped_keys.private_key(key, self.data, self.suite, self.spki)
        return wrapped_keys.secret_key(key, self.data, self.suite)


def wrapped_key(file: Path, suite: str, public: Path | None, secret: str) -> WrappedKey:
    """The wrapped key that the options name: with a public half, or with `--secret raw`. Raises CommandError or BadRequest."""
    from hsmd.envelopes.envelope import MAX_ENVELOPE_BYTES
    from hsmd.holder import public_key_forms
    from hsmd.holder.wrapped_keys import SUITES

    if suite and suite not in SUITES:
        raise CommandError(
            f"--suite: {suite!r} is none of {', '.join(SUITES)}", "name how it was wrapped", Exit.USAGE
        )
    if (public is None) == (not secret) or secret not in ("", "raw"):
        raise CommandError(
            "--wrapped needs the public half of the private key in it",
            "name it with --public; for a symmetric key say --secret raw instead",
            Exit.USAGE,
        )
    spki = b""
    if public is not None:
        spki = public_key_forms.spki_of(input_files.content(public, public_key_forms.MAX_BYTES))
    data = input_files.content_or_input(file, MAX_ENVELOPE_BYTES, "name the file of a wrapped key")
    return WrappedKey(data, suite, spki)
