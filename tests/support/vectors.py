"""The JSON files of tests/vectors."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> Any:
    """A JSON file of tests/vectors."""
    return json.loads((VECTORS / name).read_text())


def unbase64(text: str) -> bytes:
    return base64.b64decode(text)
