"""Pages of certificate chains, for daemon and agent: chains are of very different sizes, so a page ends by its bytes."""

from __future__ import annotations

from hsmd.protocol.messages import ChainPage, KeyChain

_BESIDE_TEXT = 200
"""More bytes than an answer has for a chain beside its text: the name of its key, its mark, and what JSON adds."""


class ChainPageBuilder:
    """Collects the answers to the keys of one request, in their order, up to `longest` bytes as JSON."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._size = 0
        self._chains: list[KeyChain] = []
        self._answered = 0

    def add(self, key: str, pem: str, mark: str) -> bool:
        """Answer the next key, which has no chain if `pem` is empty. False, without answering it, if the page is full.

        The first chain of a page is always taken, so that each page brings the caller on.
        """
        if pem:
            size = (
                self._size + len(pem) + pem.count("\n") + _BESIDE_TEXT
            )  # JSON writes a line feed as two bytes
            if size > self._longest and self._chains:
                return False
            self._size = size
            self._chains.append(KeyChain(key, pem, mark))
        self._answered += 1
        return True

    def page(self) -> ChainPage:
        """What has been answered."""
        return ChainPage(self._chains, self._answered)
