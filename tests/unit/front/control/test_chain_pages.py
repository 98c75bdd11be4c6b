"""Pages of certificate chains end by bytes: chains are of very different sizes, and an answer has a longest length."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from hsmd.daemon.front.access.credentials import KeyCredential
from hsmd.daemon.front.access.identity import Identity
from hsmd.daemon.front.control.certificates import CertificateHandlers
from hsmd.daemon.store.records import CertificateRecord
from hsmd.protocol import messages
from hsmd.protocol.roles import Role
from hsmd.system.control_requests import MAX_RESULT_BYTES

OPERATOR = Identity("root", frozenset({Role.OPERATOR}), KeyCredential("SHA256:x"))
END = datetime(2030, 1, 1, tzinfo=UTC)


class Rows:
    """Chains by key, in place of the store."""

    def __init__(self, chains: dict[str, str]) -> None:
        self._chains = chains
        self.certificates = self
        self.snapshot = SimpleNamespace(keys_for=lambda *_: None)

    async def read(self, action: Callable[[Any], Any]) -> Any:
        return action(self)

    def of(self, names: list[str]) -> list[CertificateRecord]:
        return [CertificateRecord(name, self._chains[name], END) for name in names if name in self._chains]


async def test_all_chains_come_in_pages_that_fit_into_an_answer() -> None:
    longest = 60_000
    chains = {
        f"k{number:03}": ("x" * 64 + "\n") * (longest // 65 if number % 3 else 3) for number in range(300)
    }
    handlers = CertificateHandlers(cache=Rows(chains), service=None, certificate_state=lambda _: "")  # type: ignore[arg-type]
    wanted, got, pages = [*sorted(chains), "none"], {}, 0
    while wanted:
        page = await handlers.export_chains(OPERATOR, messages.CertificateChains(wanted), 0.0)
        assert len(messages.encode_result(page)) <= MAX_RESULT_BYTES
        assert page.answered > 0, "an answer brings the caller on"
        got |= {chain.key: chain.pem for chain in page.chains}
        wanted, pages = wanted[page.answered :], pages + 1
    assert got == chains
    assert pages <= 13, "pages are filled: 12 MB in answers of 1 MiB"
