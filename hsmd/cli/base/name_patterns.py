"""Names of several keys on the command line: names, and patterns such as `site-*`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from fnmatch import fnmatchcase

from hsmd.cli.base import names as key_names
from hsmd.cli.base.errors import CommandError
from hsmd.cli.base.near_names import near
from hsmd.cli.base.output import note

_SIGNS = frozenset("*?[]!")
_SHOWN = 20
"""Most names that a plan lists."""


def is_pattern(text: str) -> bool:
    """Whether `text` can stand for several names: a name has no `*`, `?` or `[`."""
    return any(sign in text for sign in "*?[")


def check(texts: list[str]) -> list[str]:
    """Return `texts` if each is a valid name or pattern. Raises BadParameter, a usage error."""
    for text in texts:
        # What a pattern has beside its signs must be what names have, or it matches no key.
        key_names.check(
            "x" + "".join(sign for sign in text if sign not in _SIGNS) if is_pattern(text) else text
        )
    return texts


def is_one(texts: Sequence[str]) -> bool:
    """Whether they name exactly one key."""
    return len(texts) == 1 and not is_pattern(texts[0])


def select(texts: Sequence[str], keys: Iterable[str], *, see: str = "hsmd key list") -> list[str]:
    """Those of `keys` that `texts` stand for, in the order of `keys`.

    Raises CommandError for one that stands for none, with names that are like it, or the command `see`.
    """
    known = list(keys)
    wanted: set[str] = set()
    for text in texts:
        found = (
            {name for name in known if fnmatchcase(name, text)} if is_pattern(text) else {text} & set(known)
        )
        if not found:
            what = "no key matches" if is_pattern(text) else "there is no key"
            similar = [] if is_pattern(text) else near(text, known)
            raise CommandError(
                f"{what} {text!r}", f"did you mean {' or '.join(similar)}?" if similar else f"see: {see}"
            )
        wanted |= found
    return [name for name in known if name in wanted]


def matches(texts: Sequence[str], name: str) -> bool:
    """Whether `texts` stand for `name`; without any they stand for all."""
    return not texts or any(fnmatchcase(name, text) for text in texts)


def count(keys: Sized) -> str:
    """How many keys these are, in words."""
    return "1 key" if len(keys) == 1 else f"{len(keys):,} keys"


def plan(verb: str, names: Sequence[str]) -> None:
    """Tell on standard error what a pattern stands for."""
    note(f"{verb} {count(names)}: {shortened(names)}")


def shortened(names: Sequence[str]) -> str:
    """The names, or the first of them and how many there are besides."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


class Progress:
    """Tells on standard error, every few seconds, how far long work is. A `total` of 0 is not known."""

    def __init__(self, what: str, total: int, every_s: float = 2.0) -> None:
        from time import monotonic

        self._clock = monotonic
        self._what, self._total, self._every_s = what, total, every_s
        self._done, self._told_at = 0, monotonic()

    def step(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        if self._clock() - self._told_at >= self._every_s and self._done != self._total:
            self._told_at = self._clock()
            note(f"{self._what} {self._done:,} {f'of {self._total:,}' if self._total else 'so far'}")
