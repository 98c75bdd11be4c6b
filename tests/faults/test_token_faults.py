"""Faults of a token: each injected with the fault module, on a real daemon."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from hsmd.client import Connection
from hsmd.errors import BadRequest, DeadlineExceeded, HsmdError, Overloaded, StoreFailure
from hsmd.protocol import messages
from tests.support.daemon import MAIL, OPERATOR, WEB, Daemon, running_daemon
from tests.support.evidence import Client, LogRead, compare, make_keys, next_good
from tests.support.fault_module.control import CKR, Action, FaultModule, Function, process_sessions
from tests.support.load import all_ready
from tests.support.polling import wait_until
from tests.support.postgresql import Cluster
from tests.support.tokens import in_token

pytestmark = pytest.mark.timeout(120)
CKM_ECDSA, CKM_EC_KEY_PAIR_GEN = 0x1041, 0x1040
OBJECTS = "show(sum(1 for _ in session.get_objects({A.TOKEN: True})))"


@pytest.fixture
def open_daemon(tmp_path: Path, fault_module: FaultModule) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:
        settings = {"before": fault_module.before, "workers": 2}
        yield lambda **options: stack.enter_context(
            running_daemon(tmp_path / "daemon", **(settings | options))
        )


def clients_of(built: Daemon, **options: float) -> list[Client]:
    keys = make_keys(built)
    return [Client(built, name, keys, **options) for name in (WEB, MAIL)]


def errors_of(clients: list[Client]) -> list[HsmdError]:
    return [done.error for client in clients for done in client.done if done.error]


def check_outcome(built: Daemon, module: FaultModule, clients: list[Client]) -> None:
    built.stop()
    assert not any(client.wrong() for client in clients)
    compare(LogRead(built.audit_path.parent), module, clients)


async def test_an_idle_token_is_probed_so_that_the_connection_stays_open(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    open_daemon(token_settings={"probe_s": 1})
    before = len(fault_module.calls(Function.GENERATE_RANDOM))
    pids = {call.pid for call in fault_module.calls(Function.LOGIN)}
    async with asyncio.timeout(15):
        while Counter(call.pid for call in fault_module.calls(Function.GENERATE_RANDOM)[before:]).total() < 4:
            await asyncio.sleep(0.05)
    probed = {call.pid for call in fault_module.calls(Function.GENERATE_RANDOM)[before:]}
    assert len(probed) >= 2 and probed <= pids
    assert not fault_module.uses(), "a probe never signs"


async def test_requests_open_no_further_sessions(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    built = open_daemon()
    clients = clients_of(built)
    assert process_sessions(fault_module) == 3, "one for each worker"
    fault_module.cap_sessions(3)
    opened = len(fault_module.calls(Function.OPEN_SESSION))
    async with clients[0], clients[1]:
        for _ in range(5):
            await next_good(clients)
    assert len(fault_module.calls(Function.OPEN_SESSION)) == opened
    assert not errors_of(clients)
    check_outcome(built, fault_module, clients)


def test_with_too_few_sessions_the_daemon_serves_with_those_it_has(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, tmp_path: Path
) -> None:
    built = open_daemon()
    key = built.add_key("web")
    built.stop()
    fault_module.cap_sessions(2)
    built.begin()
    try:
        wait_until(
            lambda: "SessionCount" in built.log_path.read_text(), "one worker is refused a session", 20
        )
        wait_until(lambda: process_sessions(fault_module) == 2, within_s=20)
        fault_module.cap_sessions(0)
        built.wait_for_workers()
        assert built.ask(messages.KeyShow("web")).digest == key.hex()
    finally:
        built.stop()


async def test_every_process_initialises_the_module_separately(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """One initialisation, one login, one session each; no process finalises it or uses the module after a fork."""
    built = open_daemon()
    clients = clients_of(built)
    async with clients[0], clients[1]:
        await next_good(clients)
    check_outcome(built, fault_module, clients)
    for function in (Function.INITIALIZE, Function.LOGIN, Function.OPEN_SESSION):
        each = Counter(call.pid for call in fault_module.calls(function) if call.rv == CKR.OK)
        assert set(each.values()) == {1}, function
    assert not [call for call in fault_module.calls() if call.rv == CKR.CRYPTOKI_NOT_INITIALIZED]
    assert not fault_module.calls(Function.FINALIZE)


@pytest.mark.parametrize("action", [Action.ABORT, Action.CRASH], ids=lambda action: action.name)
async def test_a_module_that_crashes_costs_no_client_an_answer(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, action: Action
) -> None:
    built = open_daemon()
    clients = clients_of(built)
    async with clients[0], clients[1], built.connection(OPERATOR) as operator:
        for crash in range(1, 4):
            await next_good(clients)
            rule = fault_module.rule(Function.SIGN, action, count=1)
            async with asyncio.timeout(15):
                while len(built.logged("worker.lost")) < crash:
                    await asyncio.sleep(0.01)
            assert rule.hits == 1
            rule.clear()
            await all_ready(built, operator)
        await next_good(clients)
    assert not errors_of(clients)
    check_outcome(built, fault_module, clients)


def test_a_key_that_the_token_cannot_use_is_refused_before_generation(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    built = open_daemon()
    built.stop()
    fault_module.hide_mechanisms(CKM_ECDSA)
    built.start()
    with pytest.raises(BadRequest, match="the token has no ECDSA"):
        built.add_key("web")
    assert not fault_module.calls(Function.GENERATE_KEY_PAIR), "refused before it was generated"
    built.add_key("rsa", "rsa-2048")


async def test_a_slow_token_delays_no_answer_beyond_the_deadline(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """The queue is bounded, requests that cannot end in time do not begin, and all succeed once the token is fast again."""
    built = open_daemon(limits={"queue": 100})
    clients = clients_of(built, parallel=20, timeout_s=0.5)
    async with clients[0], clients[1]:
        await next_good(clients)
        rule = fault_module.rule(Function.SIGN, Action.SLEEP, 100)
        async with asyncio.timeout(20):
            while len(errors_of(clients)) < 60:
                await asyncio.sleep(0.02)
        rule.clear()
        await next_good(clients)
    assert {type(error) for error in errors_of(clients)} <= {DeadlineExceeded, Overloaded}
    assert max(done.ended_s - done.began_s for client in clients for done in client.done) < 0.5 + 0.05 + 0.5
    check_outcome(built, fault_module, clients)


@pytest.mark.parametrize(
    "function", [Function.GENERATE_KEY_PAIR, Function.CREATE_OBJECT], ids=lambda function: function.name
)
def test_objects_left_by_a_crash_stay_and_affect_no_other_key(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, function: Function
) -> None:
    built = open_daemon()
    of_a_start = len(fault_module.calls(Function.DESTROY_OBJECT))
    built.add_key("before")
    after_pair = fault_module.rule(function, Action.ABORT, count=1)
    with pytest.raises(HsmdError):
        built.add_key("broken")
    assert after_pair.hits == 1
    left = in_token(built.token, OBJECTS)
    built.stop()
    built.start()
    assert in_token(built.token, OBJECTS) == left, "objects with key material are never deleted"
    destroyed = Counter(call.pid for call in fault_module.calls(Function.DESTROY_OBJECT))
    assert set(destroyed.values()) == {of_a_start}, (
        "session objects of the probe when a control worker starts"
    )
    assert [key.name for key in built.ask(messages.KeyList(limit=10)).keys] == ["before"]
    built.add_key("broken")


def test_a_token_that_is_not_found_at_first_is_searched_again(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule
) -> None:
    """The start lock serialises the workers' starts; a token that first returns errors is tried a few more times."""
    rule = fault_module.rule(Function.GET_SLOT_LIST, Action.RETURN, CKR.GENERAL_ERROR, count=2)
    built = open_daemon()
    assert rule.hits == 2
    assert not built.logged("worker.failed")
    starts: dict[int, list[float]] = {}
    for call in fault_module.calls(Function.GET_SLOT_LIST, Function.LOGIN):
        starts.setdefault(call.pid, []).extend([call.began_s, call.ended_s])
    spans = sorted((min(times), max(times)) for times in starts.values())
    assert len(spans) == 3
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans)), "one worker after the other"


async def test_without_the_store_keys_are_used_and_changes_refused(
    open_daemon: Callable[..., Daemon], fault_module: FaultModule, cluster: Cluster
) -> None:
    """A worker lost meanwhile is replaced too: the store is needed only before a daemon's first login."""
    cluster.run("CREATE DATABASE gone")
    built = open_daemon(store_url=cluster.url("gone"))
    clients = clients_of(built)
    async with clients[0], clients[1], built.connection(OPERATOR) as operator:
        await next_good(clients)
        cluster.run("ALTER DATABASE gone ALLOW_CONNECTIONS false")
        cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'gone'")
        async with asyncio.timeout(20):
            while not built.logged("store.away"):
                await asyncio.sleep(0.05)
        with pytest.raises(StoreFailure, match="store"):
            await operator.control(messages.ClientAdd("meanwhile"), timeout_s=5)
        os.kill(built.signing_pids()[0], signal.SIGKILL)
        await next_good(clients)
        await all_ready(built, operator)
        cluster.run("ALTER DATABASE gone ALLOW_CONNECTIONS true")
        async with asyncio.timeout(10):
            while await accepts_changes(operator) is False:
                await asyncio.sleep(0.05)
        await next_good(clients)
    assert not errors_of(clients)
    check_outcome(built, fault_module, clients)


async def accepts_changes(operator: Connection) -> bool:
    """Whether the daemon accepts a change."""
    try:
        await operator.control(messages.ClientAdd("afterwards"), timeout_s=5)
    except StoreFailure:
        return False
    return True
