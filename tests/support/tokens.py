"""Real SoftHSM tokens for tests, and workers that are driven over their raw sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hsmd.daemon.ipc import worker_messages
from hsmd.daemon.ipc.progress import ProgressPage
from hsmd.daemon.ipc.spawn import SpawnedWorker, spawn_worker
from hsmd.daemon.ipc.worker_messages import KeyDescription, TokenRequest
from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.pkcs11.settings import TokenSettings
from hsmd.pkcs11.softhsm import SoftHsmToken
from hsmd.protocol import frames
from hsmd.protocol.channel import FrameDecoder
from hsmd.protocol.frames import Frame, Kind

ROOT = Path(__file__).resolve().parents[2]
READ_TIMEOUT_S = 20.0


def settings_of(token: SoftHsmToken, **changes: Any) -> WorkerSettings:
    """Worker settings for a temporary token, with the start lock in the token's directory."""
    values: dict[str, Any] = {
        "name": "test",
        "module": str(token.module),
        "label": token.label,
        "pin_file": str(token.pin_file),
        "lock_file": str(token.pin_file.with_name("start.lock")),
        "read_write": changes.get("control", False),
    }
    values |= {name: changes.pop(name) for name in TokenSettings.__struct_fields__ if name in changes}
    return WorkerSettings(token=TokenSettings(**values), **changes)


@dataclass
class RawWorker:
    """One worker, driven directly, so that a test can send what a compromised front could."""

    token: SoftHsmToken
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.spawned: SpawnedWorker = spawn_worker(
            settings_of(self.token, **self.changes), environment=self.token.environment
        )
        self.socket: socket.socket = self.spawned.socket
        self.socket.settimeout(READ_TIMEOUT_S)
        self.progress = ProgressPage(self.spawned.progress_fd)
        self._decoder = FrameDecoder(frames.MAX_ANSWER_LENGTH)
        self._frames: list[Frame] = []
        self._next_id = 0

    def event(self) -> worker_messages.AnyEvent:
        """The worker's first message."""
        kind, request_id, body = self.frame()
        assert (kind, request_id) == (Kind.EVENT, 0)
        return worker_messages.decode_event(body)

    def ready(self) -> RawWorker:
        """Wait for the ready notice."""
        event = self.event()
        assert isinstance(event, worker_messages.Ready), event
        return self

    def frame(self) -> Frame:
        """The next frame. Raises EOFError if the worker has ended."""
        while not self._frames:
            data = self.socket.recv(65_536)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.socket.sendall(data)

    def send_use(self, purpose: int, scheme: int, key: bytes, data: bytes, deadline_ms: int = 10_000) -> int:
        """Send one key operation; return its request id."""
        self._next_id += 1
        self.send(frames.encode_key_operation(self._next_id, deadline_ms, purpose, scheme, key, data))
        return self._next_id

    def use(self, purpose: int, scheme: int, key: bytes, data: bytes) -> bytes:
        """Do one key operation; return its answer. Raises the worker's error."""
        request_id = self.send_use(purpose, scheme, key, data)
        kind, answered, body = self.frame()
        while kind == Kind.EVENT:
            kind, answered, body = self.frame()
        assert answered == request_id
        if kind == Kind.ERROR:
            raise frames.decode_error(body)
        assert kind == Kind.RESULT
        return body

    def control(self, request: TokenRequest) -> Any:
        """Do a control request; return its result. Raises the worker's error."""
        self._next_id += 1
        self.send(frames.encode_control_request(self._next_id, 60_000, worker_messages.encode(request)))
        kind, _, body = self.frame()
        if kind == Kind.ERROR:
            raise frames.decode_error(body)
        assert kind == Kind.CONTROL_RESULT
        return msgspec.json.decode(body, type=request.Result)

    def exit_status(self, timeout_s: float = 10.0) -> int:
        """Wait until the worker ends by itself; return its exit status."""
        return self.spawned.process.wait(timeout_s)

    def close(self) -> None:
        """End it, in whatever state it is."""
        process = self.spawned.process
        self.socket.close()
        self.progress.close()
        os.close(self.spawned.progress_fd)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait(10)


def generate(control: RawWorker, name: str, key_type: str, purposes: Iterable[str]) -> KeyDescription:
    """Generate a key through a control worker."""
    made: KeyDescription = control.control(
        worker_messages.Generate(name=name, key_type=key_type, purposes=list(purposes))
    )
    return made


_PRELUDE = """
import json, os, pkcs11
from pathlib import Path
from pkcs11 import Attribute as A, KeyType as K, Mechanism as M, MechanismFlag as F, ObjectClass as C
session = pkcs11.lib({module!r}).get_token(token_label={label!r}).open(rw=True, user_pin=Path({pin!r}).read_text().strip())
def show(value): print(json.dumps(value))
"""


def in_token(token: SoftHsmToken, script: str) -> Any:
    """Run a script with a logged-in `session` on the token in another process; return the value that it passes to `show`."""
    prelude = _PRELUDE.format(module=str(token.module), label=token.label, pin=str(token.pin_file))
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}{script}\nimport sys; sys.stdout.flush(); os._exit(0)"],
        env={**os.environ, **token.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout) if done.stdout else None
