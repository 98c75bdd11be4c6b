"""Answers about tokens that hold many keys fit into a frame."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec

from hsmd.daemon.front.control.keys import KeyHandlers
from hsmd.daemon.front.control.tokens import TokenHandlers
from hsmd.daemon.front.tokens.login_guard import Phase
from hsmd.daemon.front.tokens.reconciliation import Differences
from hsmd.daemon.ipc.worker_messages import Candidate, CandidateList, Candidates
from hsmd.daemon.store import Contents
from hsmd.protocol import messages
from hsmd.protocol.frames import MAX_ANSWER_LENGTH
from hsmd.protocol.messages import TokenStatus
from tests.support.snapshots import snapshot_of

MANY = 10_000
IDENTITY: Any = None


class Pool:
    """A token whose control worker lists `MANY` candidates, a thousand on a page."""

    def status(self) -> TokenStatus:
        return TokenStatus("main", "main", "1", "ready", 0, [], [])

    async def control(self, request: Candidates, timeout_s: float) -> CandidateList:
        first = int(request.cursor or 0)
        keys = [
            Candidate(f"{number:032x}", f"label {number}", "p-256", "ab" * 32, ["extractable"])
            for number in range(first, first + 1_000)
        ]
        return CandidateList(keys, str(first + 1_000) if first + 1_000 < MANY else "")


class NoLogins:
    def phase_of(self, name: str) -> Phase:
        return Phase.GOING

    def stop_of(self, token: str) -> None:
        return None


def size_of(answer: Any) -> int:
    return len(msgspec.json.encode(answer))


async def test_token_list_names_some_of_many_differences() -> None:
    digests = tuple(f"{number:064x}" for number in range(MANY))
    found = {"main": Differences(tuple(f"key-{digest}" for digest in digests), digests, datetime.now(UTC))}
    pools: Any = {"main": Pool()}
    handlers = TokenHandlers(cache=IDENTITY, logins=NoLogins(), pools=pools, differences=found)  # type: ignore[arg-type]
    answer = await handlers.list_tokens(IDENTITY, messages.TokenList(), 0.0)
    (token,) = answer.tokens
    assert (token.missing_count, token.unknown_count) == (MANY, MANY)
    assert (token.missing, token.unknown) == (list(found["main"].missing[:1000]), list(digests[:1000]))
    assert size_of(answer) < MAX_ANSWER_LENGTH


async def test_candidates_come_in_answers_that_fit() -> None:
    pools: Any = {"main": Pool()}
    cache: Any = SimpleNamespace(snapshot=snapshot_of(Contents(1)))
    handlers = KeyHandlers(cache=cache, pools=pools, clock=lambda: 0.0, certificate_state=lambda _: "")
    found, request, answers = [], messages.KeyCandidates(), 0
    while True:
        answer = await handlers.candidates(IDENTITY, request, 60.0)
        assert size_of(answer) < MAX_ANSWER_LENGTH
        found += [key.cka_id for key in answer.keys]
        answers += 1
        if not answer.cursor:
            break
        request = messages.KeyCandidates(cursor=answer.cursor)
    assert found == [f"{number:032x}" for number in range(MANY)]
    assert 1 < answers < MANY / 1_000
