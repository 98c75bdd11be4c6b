"""Names that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_MOST = 3
_SIMILAR = 0.6


def near(name: str, known: Sequence[str]) -> list[str]:
    """The names that are most like `name`, the nearest first; those that it begins, or ends, too."""
    like = difflib.get_close_matches(name, known, _MOST, _SIMILAR)
    more = (each for each in known if name and (each.startswith(name) or each.endswith(name)))
    return list(dict.fromkeys([*like, *more]))[:_MOST]
