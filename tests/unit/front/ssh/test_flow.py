"""Flow control on a connection without a peer: packets in turns, what they cost, and no reading while the peer does not read."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from hsmd.daemon.front.ssh import channel
from hsmd.daemon.front.ssh.channel import (
    EXCHANGE_S,
    KEY_EXCHANGES,
    PACKETS_A_TURN,
    PACKETS_BEFORE_LOGIN,
    UNREAD_BYTES,
    WINDOW_BYTES,
    Flow,
    SshChannel,
)
from hsmd.daemon.front.ssh.session import UNREAD_S
from hsmd.daemon.front.ssh.tariff import KEY_EXCHANGE, TARIFF
from hsmd.system.intake import MOST_HELD_BYTES, Intakes
from tests.support.polling import eventually


class Connection:
    """The methods of an asyncssh connection that a Flow replaces."""

    def __init__(self, packets: int) -> None:
        self.packets, self.handled, self.calls, self.closing = packets, 0, [], False
        self._transport: Any = self
        self._kex_complete = True
        self.unsent = 0

    calls: list[str]

    def get_write_buffer_size(self) -> int:
        return self.unsent

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

    def send_packet(self, kind: int, *payload: bytes) -> None:
        self.calls.append(f"packet {kind}")

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


class Answering(Connection):
    """Answers each packet with two, each of which it sends by itself."""

    def __init__(self, packets: int) -> None:
        super().__init__(packets)
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def _send(self, data: bytes) -> None:
        self.write(data)

    def _recv_packet(self) -> bool:
        handled = super()._recv_packet()
        if handled:
            self._send(b"answer %d" % self.handled)
            self._send(b", more")
        return handled


async def test_the_answer_to_a_packet_before_the_login_is_written_at_once() -> None:
    connection = Answering(2)
    Flow(connection, connection.calls.append)
    connection._recv_data()
    assert connection.writes == [b"answer 1, more", b"answer 2, more"]
    connection._send(b"later")
    assert connection.writes[2:] == [b"later"]


async def test_what_is_sent_before_a_fault_is_written() -> None:
    """A connection that ends because of a packet has told its peer why."""

    class Faulty(Answering):
        def _recv_packet(self) -> bool:
            self._send(b"the reason")
            self._transport = None
            raise ValueError

    connection = Faulty(1)
    Flow(connection, connection.calls.append)
    with pytest.raises(ValueError):
        connection._recv_packet()
    assert connection.writes == [b"the reason"]
    closed = Faulty(1)
    Flow(closed, closed.calls.append)
    closed.closing = True
    with pytest.raises(ValueError):
        closed._recv_packet()
    assert closed.writes == []


# --- what a client pays for and holds ---


class Site:
    """Connections of one client, whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.intakes = Intakes(TARIFF, lambda: self.now)

    def connection(self, packets: int, client: str = "web") -> tuple[Any, Flow]:
        connection: Any = Connection(packets)
        flow = Flow(connection, connection.calls.append)
        flow.admitted(self.intakes.join(client))
        return connection, flow


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_packets_of_ssh_itself_cost_their_price_whatever_they_contain() -> None:
    site = Site()
    connection, _ = site.connection(10_000)
    connection._recv_data()
    await turns(100)
    affordable = (TARIFF.burst + TARIFF.turn) / TARIFF.packet
    assert TARIFF.burst / TARIFF.packet <= connection.handled <= affordable
    assert connection.calls[-1] == "pause"
    handled = connection.handled
    site.now += 1.0
    await eventually(lambda: connection.handled > handled)


async def test_the_connections_of_a_client_share_each_turn() -> None:
    site = Site()
    first, second, other = (site.connection(1_000, client)[0] for client in ("web", "web", "mail"))
    for connection in (first, second, other):
        connection._recv_data()
    a_turn = int(TARIFF.turn / TARIFF.packet)
    assert (first.handled, second.handled, other.handled) == (a_turn, 0, a_turn)
    await turns(6)
    assert abs(first.handled - second.handled) <= a_turn
    assert other.handled > second.handled


async def test_a_packet_with_an_accepted_key_operation_is_free() -> None:
    site = Site()
    intake = site.intakes.join("web")
    for _ in range(10_000):
        assert intake.take_packet()
        intake.charge(key_operations=1)
        await turns(1) if intake._frames_left < 2 else None
    assert intake.account.ample


async def test_a_connection_that_is_held_handles_and_reads_nothing() -> None:
    site = Site()
    connection, flow = site.connection(2)
    flow.hold()
    flow.hold()
    connection._recv_data()
    flow.release()
    await turns()
    assert (connection.handled, connection.calls[-1]) == (0, "pause")
    flow.release()
    await turns()
    assert (connection.handled, connection.calls[-1]) == (2, "resume")


async def test_packets_before_the_login_are_limited() -> None:
    connection: Any = Connection(PACKETS_BEFORE_LOGIN + 10)
    Flow(connection, connection.calls.append)
    connection._recv_data()
    await turns(20)
    assert connection.handled == PACKETS_BEFORE_LOGIN
    assert "too many packets before the login" in connection.calls


async def test_a_key_exchange_that_is_not_completed_ends_the_connection() -> None:
    connection, flow = Site().connection(0)
    connection._send_kexinit()
    connection._kex_complete = False
    began = time.monotonic()
    assert flow.check(began + EXCHANGE_S - 0.1) == ""
    assert flow.check(began + EXCHANGE_S + 1) == "a key exchange took too long"
    connection._kex_complete = True
    assert flow.check(began + EXCHANGE_S + 1) == ""


async def test_key_exchanges_are_paid_for_by_the_client() -> None:
    site = Site()
    for _ in range(int(TARIFF.burst / KEY_EXCHANGE) + 1):
        exchanging, _ = site.connection(0)
        exchanging._send_kexinit()
        assert exchanging.calls == ["key exchange"]
    connection, _ = site.connection(1)
    connection._recv_data()
    assert connection.handled == 0
    site.now += KEY_EXCHANGE / TARIFF.share
    await eventually(lambda: connection.handled == 1)


async def test_answers_that_wait_for_a_key_exchange_are_counted() -> None:
    connection, flow = Site().connection(0)
    connection._kex_complete = False
    for _ in range(32):
        flow.written(1 << 20)
    assert "its client leaves too much unread or unfinished" not in connection.calls
    flow.written(1)
    assert connection.calls[-1] == "its client leaves too much unread or unfinished"


async def test_a_client_that_leaves_too_much_unread_is_dropped_and_others_are_not() -> None:
    site = Site()
    others = [site.connection(0, client) for client in ("mail", "web", "web")]
    (other, mail), (first, _), (second, web) = others
    for connection, unsent in ((other, 1 << 20), (first, MOST_HELD_BYTES), (second, 1)):
        connection.unsent = unsent
        connection.pause_writing()
    assert (other.calls, first.calls) == (["pause"], ["pause"])
    assert second.calls[0] == "its client leaves too much unread or unfinished"
    web.lost()
    assert site.intakes.join("web").held_bytes == MOST_HELD_BYTES
    mail.lost()
    assert site.intakes.join("mail").held_bytes == 0
    first.unsent = 0
    first.resume_writing()
    assert site.intakes.join("web").held_bytes == 0


class Unread:
    """A channel of asyncssh whose peer has not taken all answers."""

    def __init__(self) -> None:
        self.unsent = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes) -> None:
        self.unsent += len(data)


class HalfFrames:
    """A session that has half a frame of its peer."""

    held_bytes = 0

    def received(self, data: bytes) -> None:
        self.held_bytes += len(data)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def test_half_frames_and_unread_answers_of_a_channel_are_held_for_its_client() -> None:
    site = Site()
    channels: list[SshChannel] = []
    connection: Any = Connection(0)
    flow = Flow(connection, connection.calls.append, channels)
    intake = site.intakes.join("web")
    flow.admitted(intake)
    session: Any = HalfFrames()
    channels.append(SshChannel(lambda _: session, flow, connection.calls.append, channels.remove))
    channels[0].connection_made(Unread())
    channels[0].data_received(b"before the request for the subsystem", None)
    assert intake.held_bytes == 0
    channels[0].session_started()
    channels[0].data_received(b"\0" * 50, None)
    assert intake.held_bytes == 50
    channels[0].write(b"a" * UNREAD_BYTES)
    channels[0].pause_writing()
    assert intake.held_bytes == 50 + UNREAD_BYTES + WINDOW_BYTES
    channels[0].write(b"a" * 1_000)
    assert intake.held_bytes == 50 + UNREAD_BYTES + WINDOW_BYTES + 1_000
    channels[0].connection_lost(None)
    assert intake.held_bytes == 0


async def test_a_peer_that_does_not_read_for_too_long_is_dropped() -> None:
    connection, flow = Site().connection(0)
    connection.pause_writing()
    assert flow.check(time.monotonic() + UNREAD_S - 1) == ""
    assert flow.check(time.monotonic() + UNREAD_S + 1) == "answers were left unread for too long"


async def test_a_connection_that_is_not_read_ends_when_its_peer_has_closed_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it sent before would otherwise keep its descriptor until its client's account has paid for all of it."""
    site = Site()
    connection, flow = site.connection(2)
    monkeypatch.setattr(channel, "peer_has_closed", lambda transport: transport is connection)
    assert flow.check(0.0) == "", "a connection that is read sees the end itself"
    flow.hold()
    assert "has closed it" in flow.check(0.0)


async def test_a_peer_that_is_not_read_is_sent_something_that_its_kernel_answers_if_it_has_gone() -> None:
    """The end of a peer that had more to send than the kernel takes does not arrive."""
    connection, flow = Site().connection(2)
    asked = "packet 2"  # SSH_MSG_IGNORE
    flow.check(0.0)
    assert asked not in connection.calls, "a connection that is read sees the end itself"
    flow.hold()
    flow.check(1.0)
    assert connection.calls.count(asked) == 1
    connection._kex_complete = False
    flow.check(2.0)
    connection._kex_complete = True
    connection.pause_writing()
    flow.check(time.monotonic())
    assert connection.calls.count(asked) == 1, "what would only wait here is not sent"
