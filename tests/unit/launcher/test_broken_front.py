"""A front that sends the launcher a malformed message is killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon_config import GOOD

FRONT = """
import os, pathlib, signal, socket, sys
from hsmd.daemon.ipc.launcher_messages import FrontReady, decode_for_front, encode

link = socket.socket(fileno=int(sys.argv[1]))
started = pathlib.Path(sys.argv[2])
link.send(encode(FrontReady(["127.0.0.1:1"], "ssh-ed25519 AAAA")))
if not started.exists():
    started.touch()
    link.send({packet!r})
    signal.pause()
os.kill(os.getppid(), signal.SIGTERM)
decode_for_front(link.recv(65536), 0)
"""

LAUNCHER = """
import subprocess, sys
from pathlib import Path
from hsmd.daemon.launcher import app, front_process

def start_python(module, arguments, *, environment, descriptors, user):
    command = [sys.executable, "-c", Path(sys.argv[2]).read_text(), str(descriptors[0]), sys.argv[3]]
    return subprocess.Popen(command, pass_fds=descriptors)

front_process.start_python = start_python
notices = []
status = app.serve(Path(sys.argv[1]), ready=notices.append)
print(notices)
sys.exit(status)
"""


@pytest.mark.parametrize(
    "packet",
    [b"\xff", b"{}", b'{"message":"unknown"}', b'{"message":"replace-worker","pid":0}', b"x" * 60_000],
    ids=["no text", "no tag", "unknown", "out of range", "long"],
)
def test_a_front_that_sends_malformed_messages_is_replaced(tmp_path: Path, packet: bytes) -> None:
    config, front = tmp_path / "hsmd.toml", tmp_path / "front.py"
    config.write_text(GOOD)
    front.write_text(FRONT.format(packet=packet))
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, config, front, tmp_path / "started"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines() if line.startswith("{")]
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[{'addresses': ['127.0.0.1:1'], 'host_key': 'ssh-ed25519 AAAA'}]\n"
    assert events == ["front.malformed", "front.ended", "launcher.draining"]
