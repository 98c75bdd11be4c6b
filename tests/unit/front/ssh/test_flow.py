"""Flow on a connection without a peer: turns, and reading that stops while the peer does not read."""

from __future__ import annotations

import asyncio
from typing import Any

from hsmd.daemon.front.ssh.channel import KEY_EXCHANGES, PACKETS_A_TURN, Flow


class Connection:
    """The parts of asyncssh's that a Flow is hooked into."""

    def __init__(self, packets: int) -> None:
        self.packets, self.handled, self.told, self.closing = packets, 0, [], False
        self._transport: Any = self

    told: list[str]

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def _recv_packet(self) -> bool:
        if not self.packets:
            return False
        self.packets -= 1
        self.handled += 1
        return True

    def _send_kexinit(self) -> None:
        self.told.append("key exchange")

    def _recv_data(self) -> None:
        while self._recv_packet():
            pass


async def test_many_packets_are_handled_in_turns() -> None:
    connection = Connection(PACKETS_A_TURN * 3 + 1)
    Flow(connection, connection.told.append)
    connection._recv_data()
    assert (connection.handled, connection.told) == (PACKETS_A_TURN, ["pause"])
    connection._recv_data()
    assert connection.handled == PACKETS_A_TURN, "more data does not give a further turn"
    for turn in range(2, 6):
        await asyncio.sleep(0)
        assert connection.handled == min(PACKETS_A_TURN * turn, PACKETS_A_TURN * 3 + 1)
    assert connection.told[-1] == "resume"


async def test_a_peer_that_does_not_read_is_not_read_from() -> None:
    connection: Any = Connection(PACKETS_A_TURN * 2)
    flow = Flow(connection, connection.told.append)
    connection.pause_writing()
    assert flow.unread_since is not None
    connection._recv_data()
    for _ in range(4):
        await asyncio.sleep(0)
    assert "resume" not in connection.told, "the end of a turn does not wake it"
    connection.resume_writing()
    assert (flow.unread_since, connection.told[-1]) == (None, "resume")


async def test_a_closed_connection_is_left_alone() -> None:
    connection: Any = Connection(PACKETS_A_TURN * 2)
    Flow(connection, connection.told.append)
    connection._recv_data()
    connection.closing = True
    told = list(connection.told)
    await asyncio.sleep(0)
    connection.resume_writing()
    assert (connection.handled, connection.told) == (PACKETS_A_TURN, told)


async def test_a_peer_that_keeps_exchanging_keys_is_dropped() -> None:
    connection: Any = Connection(0)
    Flow(connection, connection.told.append)
    for _ in range(KEY_EXCHANGES):
        connection._send_kexinit()
    assert connection.told == ["key exchange"] * KEY_EXCHANGES
    connection._send_kexinit()
    assert connection.told[KEY_EXCHANGES:] == ["too many key exchanges"]
