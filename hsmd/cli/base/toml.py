"""Writing values into TOML files; reading is the standard library's."""

from __future__ import annotations

import json


def quote(text: str) -> str:
    """`text` as a TOML basic string: JSON's escapes are a subset of TOML's, except that TOML wants DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
