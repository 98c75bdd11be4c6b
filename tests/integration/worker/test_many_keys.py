"""A token with many keys: the calls that one operation makes do not depend on how many there are, and lists come in pages."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.worker_messages import Destroy, Forget, LookedUp, LookUp, Probed
from hsmd.pkcs11.softhsm import make_token
from hsmd.protocol import frames
from hsmd.protocol.frames import Kind
from hsmd.purposes import Purpose
from tests.support.fault_module.control import FaultModule, FaultyToken, Function
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import RawWorker, generate

FEW, MANY = 4, 120
COUNTED = (Function.FIND_OBJECTS_INIT, Function.GET_ATTRIBUTE_VALUE, Function.SIGN, Function.CREATE_OBJECT)


@pytest.fixture
def faults(tmp_path: Path, fault_library: Path) -> FaultModule:
    return FaultModule(tmp_path / "faults", fault_library)


@pytest.fixture
def token(faults: FaultModule) -> Iterator[FaultyToken]:
    """A token in memory: on a disk each key takes much longer."""
    directory = Path(tempfile.mkdtemp(prefix="hsmd-test-", dir="/dev/shm"))
    yield faults.before(make_token(directory / "token", "many"))
    shutil.rmtree(directory)


class Site:
    """Both kinds of workers on a token that is filled, and the calls that they make."""

    def __init__(self, token: FaultyToken, faults: FaultModule, start: Callable[..., RawWorker]) -> None:
        self.faults = faults
        self.control = start(token, control=True).ready()
        self.keys: list[str] = []
        self.fill(FEW)
        self.signing = start(token).ready()

    def fill(self, count: int) -> None:
        while len(self.keys) < count:
            self.keys.append(generate(self.control, f"key-{len(self.keys)}", "p-256", ["tls-server"]).key)

    def calls(self, operation: Callable[[], object]) -> Counter[Function]:
        before = len(self.faults.calls(*COUNTED))
        operation()
        return Counter(call.function for call in self.faults.calls(*COUNTED)[before:])

    def look_up(self, key: str) -> None:
        self.signing.send(frames.encode(Kind.EVENT, 0, worker_messages.encode(LookUp([key]))))
        assert self.signing.event() == LookedUp([])

    def sign(self, key: str) -> None:
        self.signing.use(
            Purpose.TLS13_SERVER, SignatureScheme.ECDSA_SHA256, bytes.fromhex(key), CERTIFICATE_VERIFY
        )

    def generate(self) -> None:
        self.fill(len(self.keys) + 1)

    def counted(self) -> dict[str, Counter[Function]]:
        """The calls of each operation."""
        generated = self.calls(self.generate)
        new = self.keys[-1]
        looked_up = self.calls(lambda: self.look_up(new))
        self.sign(new)  # the first signature of a key is special
        return {
            "generate": generated,
            "look up": looked_up,
            "sign": self.calls(lambda: self.sign(new)),
            "destroy": self.calls(lambda: self.control.control(Destroy(key=self.keys.pop()))),
            "forget and probe": self.calls(lambda: self.forget_and_probe(new)),
        }

    def forget_and_probe(self, key: str) -> None:
        forget = frames.encode(Kind.EVENT, 0, worker_messages.encode(Forget([key])))
        self.signing.send(forget + frames.encode(Kind.EVENT, 0, worker_messages.PROBE))
        assert self.signing.event() == Probed("")


def test_the_calls_of_one_operation_do_not_grow_with_the_number_of_keys(
    token: FaultyToken, faults: FaultModule, start: Callable[..., RawWorker]
) -> None:
    site = Site(token, faults, start)
    few = site.counted()
    site.fill(MANY)
    assert site.counted() == few
    assert few["generate"][Function.FIND_OBJECTS_INIT] == 0
    assert few["forget and probe"][Function.FIND_OBJECTS_INIT] == 0
    assert few["look up"][Function.FIND_OBJECTS_INIT] == 2
    assert few["sign"] == {Function.SIGN: few["sign"][Function.SIGN]}


def test_all_keys_are_listed_in_pages_that_leave_room_for_other_requests(
    token: FaultyToken, faults: FaultModule, start: Callable[..., RawWorker]
) -> None:
    site = Site(token, faults, start)
    site.fill(MANY)
    found, request = [], worker_messages.Describe(brief=True)
    while True:
        page = site.control.control(request)
        found += [key.key for key in page.keys]
        if not page.cursor:
            break
        site.control.control(worker_messages.Candidates())
        request = worker_messages.Describe(brief=True, cursor=page.cursor)
    assert found == sorted(site.keys)
    assert [key.key for key in site.control.control(worker_messages.Describe()).keys] == found
