"""Writing TOML values; the standard library reads them."""

from __future__ import annotations

import json


def quote(text: str) -> str:
    """`text` as a TOML basic string: JSON escapes are valid in TOML, which also requires DEL to be escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
