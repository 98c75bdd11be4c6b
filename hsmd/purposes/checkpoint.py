"""What a checkpoint key signs: the text of a C2SP tlog-checkpoint, three lines with a log's name, size and root."""

from __future__ import annotations

import re

from hsmd.errors import PurposeMismatch

_CHECKPOINT = re.compile(
    rb"hsmd/[!-~]{1,128}\n"  # origin: C2SP allows neither spaces nor plus signs in the name of a signer
    rb"(?:0|[1-9][0-9]{0,15})\n"
    rb"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\n\Z"  # 32 bytes in canonical base64: the last character has two zero bits
)


def check_checkpoint(data: bytes) -> None:
    """Pass if `data` is the text of a checkpoint of an hsmd log, and nothing else. Raises PurposeMismatch."""
    if not _CHECKPOINT.match(data) or b"+" in data.partition(b"\n")[0]:
        raise PurposeMismatch("not the text of a checkpoint: origin hsmd/NAME, size and root, a line each")
