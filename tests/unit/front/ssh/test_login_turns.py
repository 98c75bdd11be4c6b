"""Turns of connections that have not logged in: one packet in each turn of the loop, fair by source."""

from __future__ import annotations

import asyncio
from typing import Any

from hsmd.daemon.front.ssh.channel import Flow
from hsmd.daemon.front.ssh.login_turns import LoginTurns


class Connection:
    """The methods of an asyncssh connection that a Flow replaces; it notes each packet that it handles."""

    def __init__(self, name: str, packets: int, handled: list[str]) -> None:
        self.name, self.packets, self.handled, self.closing = name, packets, handled, False
        self._transport: Any = self
        self.pause_reading = self.resume_reading = self._send_kexinit = lambda: None

    def is_closing(self) -> bool:
        return self.closing

    def _recv_packet(self) -> bool:
        if not self.packets:
            return False
        self.packets -= 1
        self.handled.append(self.name)
        return True

    def _recv_data(self) -> None:
        while (
            self.packets and self._recv_packet()
        ):  # asyncssh reads the header of a packet before it calls this
            pass


def connect(turns: LoginTurns, handled: list[str], source: str, packets: int) -> Connection:
    connection = Connection(source, packets, handled)
    Flow(connection, handled.append, (), turns, source)
    return connection


async def test_one_packet_is_handled_in_each_turn_of_the_loop() -> None:
    turns, handled = LoginTurns(asyncio.get_running_loop), list[str]()
    crowd = [connect(turns, handled, "a", 3) for _ in range(20)]
    for each in crowd:
        each._recv_data()
    assert len(handled) == 1
    for turn in range(2, 60):
        await asyncio.sleep(0)
        assert len(handled) == turn
    await asyncio.sleep(0)
    assert not any(each.packets for each in crowd)


async def test_sources_have_turns_alike() -> None:
    turns, handled = LoginTurns(asyncio.get_running_loop), list[str]()
    for _ in range(50):
        connect(turns, handled, "crowd", 8)._recv_data()
    single = connect(turns, handled, "single", 8)
    single._recv_data()
    while single.packets:
        await asyncio.sleep(0)
    assert len(handled) <= 18, "every second turn"


async def test_a_single_login_waits_for_nothing() -> None:
    turns, handled = LoginTurns(asyncio.get_running_loop), list[str]()
    for number in range(1, 9):
        connect(turns, handled, "a", 1)._recv_data()
        assert len(handled) == number
        await asyncio.sleep(0)


async def test_connections_that_ended_while_they_waited_hold_up_no_other() -> None:
    turns, handled = LoginTurns(asyncio.get_running_loop), list[str]()
    crowd = [connect(turns, handled, f"source {number % 3}", 2) for number in range(9)]
    for each in crowd:
        each._recv_data()
    for each in crowd[:8]:
        each.closing = True
    async with asyncio.timeout(5):
        while crowd[8].packets:
            await asyncio.sleep(0)
