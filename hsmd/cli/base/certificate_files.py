"""Certificate files that are sent to a daemon; a file with a private key is refused."""

from __future__ import annotations

import re
from pathlib import Path

from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.input_files import content_or_input
from hsmd.system.input_files import text_fault

MAX_CERTIFICATE_BYTES = 60_000
MAX_FILE_BYTES = 1 << 20
_PKCS12 = re.compile(rb"\x30(?:[\x00-\x80]|\x81.|\x82..|\x83...|\x84....)\x02\x01\x03\x30", re.DOTALL)
"""The begin of a PFX: SEQUENCE, version 3, SEQUENCE (RFC 7292, section 4)."""
_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,40})-----")


def certificate_text(path: Path) -> str:
    """The PEM certificates in `path`, `-` for standard input.

    Raises CommandError if the file contains a private key or no certificate, or is too large for a control request.
    """
    content = content_or_input(path, MAX_FILE_BYTES, "give the chain as PEM, leaf first")
    if fault := _kind_fault(content):
        raise CommandError(
            f"{path} contains no PEM certificate: {fault}", "give the chain as PEM, leaf first", Exit.USAGE
        )
    text = content.decode("ascii", "replace")
    if "PRIVATE KEY-----" in text:
        raise CommandError(
            f"{path} contains a private key; nothing was sent",
            "give a file with certificates only",
            Exit.USAGE,
        )
    if "-----BEGIN CERTIFICATE-----" not in text:
        held = ", ".join(sorted(set(_BEGIN.findall(text))))
        raise CommandError(
            f"{path} contains no PEM certificate" + (f", but {held}" if held else ""),
            "give the chain as PEM, leaf first",
            Exit.USAGE,
        )
    if len(content) > MAX_CERTIFICATE_BYTES:
        raise CommandError(
            f"{path} is larger than {MAX_CERTIFICATE_BYTES} bytes",
            "remove certificates that are not part of the chain",
            Exit.USAGE,
        )
    return text


def _kind_fault(content: bytes) -> str:
    if _PKCS12.match(content):
        return "it is PKCS#12; extract the chain with `openssl pkcs12 -in FILE -nokeys -out FILE.pem`"
    if content[:1] == b"\x30":
        return "it is DER; convert it with `openssl x509 -inform DER -in FILE -out FILE.pem`"
    if not content.strip():
        return "it is empty"
    fault = text_fault(content)
    return "" if fault == "it is not UTF-8" and b"-----BEGIN" in content else fault
