"""The worker process: what ends it and what does not, where the PIN is, and concurrent starts."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from hsmd.algorithms import SignatureScheme
from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.spawn import EXIT_LOGIN_REFUSED, EXIT_PROTOCOL, EXIT_RECYCLE, EXIT_TOKEN_UNAVAILABLE
from hsmd.daemon.ipc.worker_messages import KeyDescription
from hsmd.errors import ConfigurationError, ErrorCode
from hsmd.pkcs11.softhsm import SoftHsmToken, make_token
from hsmd.protocol import frames
from hsmd.protocol.frames import Kind
from hsmd.purposes import Purpose
from tests.support.polling import wait_until
from tests.support.tls_bytes import CERTIFICATE_VERIFY
from tests.support.tokens import ROOT, RawWorker, generate, in_token

ECDSA = SignatureScheme.ECDSA_SHA256


def key_frame(body: bytes) -> bytes:
    return frames.encode(Kind.KEY_OPERATION, 1, body)


GARBAGE = {
    "zero length": bytes(4),
    "length below the minimum": struct.pack(">I", 8) + bytes(8),
    "length above the limit": struct.pack(">I", 65_537) + bytes(9),
    "four gigabytes": b"\xff" * 13,
    "unknown kind": frames.encode(0x7F, 1),
    "hello": frames.encode_hello(3),
    "result": frames.encode(Kind.RESULT, 1, b"x"),
    "short key operation": key_frame(bytes(38)),
    "deadline zero": key_frame(bytes(4) + b"\x01\x04\x03" + bytes(32)),
    "deadline above a minute": key_frame(struct.pack(">I", 60_001) + b"\x01\x04\x03" + bytes(32)),
    "control request": frames.encode_control_request(1, 1000, b'{"op":"describe"}'),
    "noise": bytes(range(256)) * 16,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_front_that_breaks_the_protocol_ends_this_worker_only(
    start, token: SoftHsmToken, worker: RawWorker, keys: dict[str, KeyDescription], name: str
) -> None:
    victim = start(token).ready()
    victim.send(GARBAGE[name])
    assert victim.exit_status() == EXIT_PROTOCOL
    worker.use(Purpose.TLS13_SERVER, ECDSA, bytes.fromhex(keys["p-256"].key), CERTIFICATE_VERIFY)


def test_a_control_worker_uses_no_key(start, token: SoftHsmToken, keys: dict[str, KeyDescription]) -> None:
    control = start(token, control=True).ready()
    control.send_use(Purpose.TLS13_SERVER, ECDSA, bytes.fromhex(keys["p-256"].key), CERTIFICATE_VERIFY)
    assert control.exit_status() == EXIT_PROTOCOL
    assert control.progress.started == 0


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"op":"unknown"}', b'{"op":"describe","extra":1}', b"[" * 5000, b"\xff"]
)
def test_a_bad_control_request_is_answered(control: RawWorker, document: bytes) -> None:
    control.send(frames.encode_control_request(77, 1000, document))
    kind, request_id, body = control.frame()
    assert (kind, request_id, frames.decode_error(body).code) == (Kind.ERROR, 77, ErrorCode.BAD_REQUEST)


def test_a_worker_ends_when_its_front_ends(start, token: SoftHsmToken) -> None:
    worker = start(token).ready()
    worker.socket.shutdown(2)
    assert worker.exit_status() == 0


def test_a_worker_that_starts_while_its_front_ends_ends_in_good_order(start, token: SoftHsmToken) -> None:
    worker = start(token)
    worker.socket.shutdown(2)
    assert worker.exit_status() == 0


def test_a_fenced_worker_begins_nothing(start, token: SoftHsmToken, keys: dict[str, KeyDescription]) -> None:
    worker = start(token).ready()
    worker.progress.fence()
    worker.send_use(Purpose.TLS13_SERVER, ECDSA, bytes.fromhex(keys["p-256"].key), CERTIFICATE_VERIFY)
    assert worker.exit_status() == EXIT_RECYCLE
    assert worker.progress.finished == 0


def test_a_job_whose_deadline_has_passed_is_skipped(
    worker: RawWorker, keys: dict[str, KeyDescription]
) -> None:
    """Forty RSA-4096 signatures take longer than the last request's deadline of a millisecond."""
    slow, fast = bytes.fromhex(keys["rsa-4096"].key), bytes.fromhex(keys["p-256"].key)
    batch = [
        frames.encode_key_operation(1000 + n, 60_000, 1, 0x0804, slow, CERTIFICATE_VERIFY) for n in range(40)
    ]
    batch.append(frames.encode_key_operation(2000, 1, 1, ECDSA, fast, CERTIFICATE_VERIFY))
    worker.send(b"".join(batch))
    answers = {request_id: (kind, body) for kind, request_id, body in (worker.frame() for _ in batch)}
    kind, body = answers[2000]
    assert kind == Kind.ERROR
    assert frames.decode_error(body).code == ErrorCode.DEADLINE
    assert all(answers[1000 + n][0] == Kind.RESULT for n in range(40))


# --- starting ---


def test_workers_start_together(start, token: SoftHsmToken, control: RawWorker) -> None:
    """SoftHSM fails one start in ten when four processes initialise it concurrently; the lock serialises them."""
    for _ in range(2):
        together = [start(token) for _ in range(4)]
        for worker in together:
            worker.ready()
            worker.socket.shutdown(2)
        assert [worker.exit_status() for worker in together] == [0] * 4


def test_a_missing_token_stops_the_worker(start, token: SoftHsmToken) -> None:
    worker = start(token, label="another")
    event = worker.event()
    assert isinstance(event, worker_messages.Failed)
    assert not event.login_refused
    assert worker.exit_status() == EXIT_TOKEN_UNAVAILABLE


def test_a_missing_module_stops_the_worker(start, token: SoftHsmToken) -> None:
    worker = start(token, module="/nonexistent/module.so")
    assert isinstance(worker.event(), worker_messages.Failed)
    assert worker.exit_status() == EXIT_TOKEN_UNAVAILABLE


def test_choosing_by_serial_and_slot(start, token: SoftHsmToken) -> None:
    script = "show([session.token.serial.decode(), session.token.slot.slot_id])"
    serial, slot = in_token(token, script)
    for choice in ({"label": "", "serial": serial}, {"label": "", "slot": slot}):
        event = start(token, **choice).event()
        assert isinstance(event, worker_messages.Ready)
        assert event.serial == serial


# --- the PIN ---


def tries(token: SoftHsmToken) -> bool:
    """Whether the token has seen a wrong PIN since the last right one."""
    script = f"""
import pkcs11
from pkcs11 import TokenFlag
token = pkcs11.lib({str(token.module)!r}).get_token(token_label={token.label!r})
print(bool(token.flags & TokenFlag.USER_PIN_COUNT_LOW))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **token.environment},
        capture_output=True,
        check=True,
    )
    return done.stdout.strip() == b"True"


def test_one_wrong_pin_stops_all_workers(start, fresh_token: SoftHsmToken) -> None:
    right = fresh_token.pin_file.read_text()
    fresh_token.pin_file.write_text("wrong-pin\n")
    together = [start(fresh_token) for _ in range(4)]
    texts = []
    for worker in together:
        event = worker.event()
        assert isinstance(event, worker_messages.Failed)
        assert event.login_refused
        assert "wrong-pin" not in event.text
        texts.append(event.text)
        assert worker.exit_status() == EXIT_LOGIN_REFUSED
    assert sum("the token refused the PIN" in text for text in texts) == 1, "more than one login was tried"
    assert tries(fresh_token)
    fresh_token.pin_file.write_text(right)
    warned = start(fresh_token).event()
    assert isinstance(warned, worker_messages.Failed)
    assert warned.login_refused, "the token's flag stops all workers, also those with another PIN"
    start(fresh_token, cleared=True).ready()
    start(fresh_token).ready()


@pytest.mark.parametrize(
    ("content", "mode", "fix"),
    [
        (b"1234\n", 0o640, "chmod 0600"),
        (b"1234\n", 0o604, "chmod 0600"),
        (b"", 0o600, "one line"),
        (b"12\n34\n", 0o600, "one line"),
        (b"x" * 300, 0o600, "255 bytes"),
        (b"\xe9123\n", 0o600, "not UTF-8"),
        (b"\xff\xfe1\x002\x003\x004\x00", 0o600, "byte order mark"),
    ],
)
def test_a_bad_pin_file_is_named_and_no_login_is_tried(
    start, fresh_token: SoftHsmToken, content: bytes, mode: int, fix: str
) -> None:
    fresh_token.pin_file.write_bytes(content)
    fresh_token.pin_file.chmod(mode)
    worker = start(fresh_token)
    event = worker.event()
    assert isinstance(event, worker_messages.Failed)
    assert fix in event.text
    assert worker.exit_status() == EXIT_TOKEN_UNAVAILABLE
    assert not tries(fresh_token)


def test_the_pin_from_a_systemd_credential(
    start, fresh_token: SoftHsmToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").mkdir()
    fresh_token.pin_file.rename(tmp_path / "credentials" / "token-pin")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    start(fresh_token, pin_file="", pin_credential="token-pin").ready()


def test_the_pin_stays_in_the_worker(start, fresh_token: SoftHsmToken) -> None:
    pin = fresh_token.pin_file.read_bytes().strip()
    worker = start(fresh_token).ready()
    process = Path("/proc", str(worker.spawned.pid))
    for name in ("cmdline", "environ"):
        assert pin not in (process / name).read_bytes()
    inherited = (process / "environ").read_bytes().split(b"\0")
    names = {entry.split(b"=")[0].decode() for entry in inherited if entry}
    assert names <= {
        "PATH",
        "LANG",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PYTHONPATH",
        "SOFTHSM2_CONF",
        "RUNTIME_DIRECTORY",
    }


SPAWNING = """
import sys, re
from pathlib import Path
from tests.support.tokens import RawWorker
from hsmd.pkcs11.softhsm import SoftHsmToken
token = SoftHsmToken(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
worker = RawWorker(token).ready()
assert not [name for name in sys.modules if name.split(".")[0] == "pkcs11"], "the front loaded the binding"
needle = bytes.fromhex(sys.argv[5])  # masked, so that the search does not put it into memory
mask = bytes(byte ^ 0x55 for byte in range(256))
found = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if "rw" in line.split()[1] and "[v" not in line:
            memory.seek(low)
            content = memory.read(high - low)
            found += content.translate(mask).count(needle)
worker.close()
sys.exit(10 if found else 0)
"""


def test_the_pin_is_not_in_the_fronts_memory(fresh_token: SoftHsmToken) -> None:
    """The program gets the PIN masked, so that the search itself does not put it into memory."""
    masked = bytes(byte ^ 0x55 for byte in fresh_token.pin_file.read_bytes().strip())
    arguments = [
        fresh_token.label,
        fresh_token.module,
        fresh_token.pin_file,
        fresh_token.configuration,
        masked.hex(),
    ]
    done = subprocess.run(
        [sys.executable, "-c", SPAWNING, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_other_processes_cannot_inspect_a_worker(start, token: SoftHsmToken) -> None:
    """It is not dumpable: /proc/PID belongs to root even if the worker does not, and it leaves no core file."""
    worker = start(token).ready()
    limits = Path("/proc", str(worker.spawned.pid), "limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]
    script = "import ctypes; from hsmd.daemon.worker.main import harden; harden(); exit(ctypes.CDLL(None).prctl(3,0,0,0,0))"
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0


# --- temporary tokens ---


def test_a_temporary_token(tmp_path: Path) -> None:
    made = make_token(tmp_path / "new", "dev")
    assert stat.S_IMODE(made.pin_file.stat().st_mode) == 0o600
    assert len(made.pin_file.read_text().strip()) == 32
    with pytest.raises(ConfigurationError, match="already"):
        make_token(tmp_path / "new", "dev")


def test_the_script_makes_a_token(tmp_path: Path, start) -> None:
    done = subprocess.run(
        [str(ROOT / "softhsm" / "make-token"), str(tmp_path / "scripted"), "scripted"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        timeout=60,
        check=True,
        text=True,
    )
    directory = tmp_path / "scripted"
    pin = (directory / "pin").read_text().strip()
    assert pin not in done.stdout + done.stderr
    assert str(directory / "softhsm2.conf") in done.stdout
    module = Path(next(line.split('"')[1] for line in done.stdout.splitlines() if line.startswith("module")))
    start(SoftHsmToken("scripted", module, directory / "pin", directory / "softhsm2.conf")).ready()


def test_two_daemons_see_each_others_keys(start, token: SoftHsmToken, control: RawWorker) -> None:
    """A worker finds a key that another process generates later."""
    worker = start(token).ready()
    made = generate(control, "elsewhere", "p-256", ["tls-server"])

    def served() -> bool:
        request_id = worker.send_use(Purpose.TLS13_SERVER, ECDSA, bytes.fromhex(made.key), CERTIFICATE_VERIFY)
        kind, answered, _ = worker.frame()
        assert answered == request_id
        return kind == Kind.RESULT

    wait_until(served, within_s=3.0)
