"""Flow control on a connection without a peer: packets in turns, and no reading while the peer does not read."""

from __future__ import annotations

import asyncio
from typing import Any

from hsmd.daemon.front.ssh.channel import KEY_EXCHANGES, PACKETS_A_TURN, Flow


class Connection:
    """The methods of an asyncssh connection that a Flow replaces."""

    def __init__(self, packets: int) -> None:
        self.packets, self.handled, self.calls, self.closing = packets, 0, [], False
        self._transport: Any = self

    calls: list[str]

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def _recv_packet(self) -> bool:
        if not self.packets:
            return False
        self.packets -= 1
        self.handled += 1
        return True

    def _send_kexinit(self) -> None:
        self.calls.append("key exchange")

    def _recv_data(self) -> None:
        while self._recv_packet():
            pass


async def test_many_packets_are_handled_in_turns() -> None:
    connection = Connection(PACKETS_A_TURN * 3 + 1)
    Flow(connection, connection.calls.append)
    connection._recv_data()
    assert (connection.handled, connection.calls) == (PACKETS_A_TURN, ["pause"])
    connection._recv_data()
    assert connection.handled == PACKETS_A_TURN, "more data does not start another turn"
    for turn in range(2, 6):
        await asyncio.sleep(0)
        assert connection.handled == min(PACKETS_A_TURN * turn, PACKETS_A_TURN * 3 + 1)
    assert connection.calls[-1] == "resume"


async def test_no_data_is_read_from_a_peer_that_does_not_read() -> None:
    connection: Any = Connection(PACKETS_A_TURN * 2)
    flow = Flow(connection, connection.calls.append)
    connection.pause_writing()
    assert flow.unread_since is not None
    connection._recv_data()
    for _ in range(4):
        await asyncio.sleep(0)
    assert "resume" not in connection.calls, "the end of a turn does not resume reading"
    connection.resume_writing()
    assert (flow.unread_since, connection.calls[-1]) == (None, "resume")


async def test_a_closed_connection_is_not_resumed() -> None:
    connection: Any = Connection(PACKETS_A_TURN * 2)
    Flow(connection, connection.calls.append)
    connection._recv_data()
    connection.closing = True
    calls = list(connection.calls)
    await asyncio.sleep(0)
    connection.resume_writing()
    assert (connection.handled, connection.calls) == (PACKETS_A_TURN, calls)


async def test_a_peer_that_keeps_exchanging_keys_is_disconnected() -> None:
    connection: Any = Connection(0)
    Flow(connection, connection.calls.append)
    for _ in range(KEY_EXCHANGES):
        connection._send_kexinit()
    assert connection.calls == ["key exchange"] * KEY_EXCHANGES
    connection._send_kexinit()
    assert connection.calls[KEY_EXCHANGES:] == ["too many key exchanges"]
