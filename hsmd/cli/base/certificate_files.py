"""Certificate files that are sent to a daemon; a file with a private key is refused."""

from __future__ import annotations

import sys
from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit

MAX_CERTIFICATE_BYTES = 60_000


def certificate_text(path: Path) -> str:
    """The PEM certificates in `path`, `-` for standard input.

    Raises CommandError if the file contains a private key or no certificate, or is too large for a control request.
    """
    source = sys.stdin.buffer if str(path) == "-" else path.open("rb")
    with source:
        content = source.read(MAX_CERTIFICATE_BYTES + 1)
    text = content.decode("ascii", "replace")
    if "PRIVATE KEY-----" in text:
        raise CommandError(
            f"{path} contains a private key; nothing was sent",
            "give a file with certificates only",
            Exit.USAGE,
        )
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise CommandError(
            f"{path} contains no PEM certificate", "give the chain as PEM, leaf first", Exit.USAGE
        )
    if len(content) > MAX_CERTIFICATE_BYTES:
        raise CommandError(
            f"{path} is larger than {MAX_CERTIFICATE_BYTES} bytes",
            "remove certificates that are not part of the chain",
            Exit.USAGE,
        )
    return text
