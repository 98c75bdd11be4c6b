"""Files that users name: bounded, never waiting, and what else they are."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from hsmd.system.input_files import open_file, read_file, text_fault


def fault_of(path: Path, limit: int = 100) -> str:
    with pytest.raises(OSError) as raised:
        read_file(path, limit)
    assert raised.value.filename == str(path)
    return str(raised.value.strerror)


def test_a_file_is_read_to_the_limit_and_not_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_file(path, 100) == b"x" * 100
    assert fault_of(path, 99) == "it has more than 99 bytes"
    assert fault_of(tmp_path / "none") == "No such file or directory"


def test_what_is_not_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("pipe")
    assert fault_of(tmp_path) == "it is a directory"
    assert fault_of(tmp_path / "pipe") == "it is a named pipe, not a file"
    assert fault_of(tmp_path / "link") == "it is a named pipe, not a file"
    assert fault_of(tmp_path / "socket") == "it is not a file"
    assert fault_of(Path("/dev/zero")) == "it is a device, not a file"
    listener.close()


def test_what_a_shell_passes_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    writing = threading.Thread(target=lambda: (os.write(writer, b"passed"), os.close(writer)))
    writing.start()
    assert read_file(Path(f"/dev/fd/{reader}"), 100) == b"passed"
    writing.join()
    os.close(reader)
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="directory"):
        open_file(Path(f"/proc/self/fd/{directory}"))
    os.close(directory)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", ""),
        ("plain \u00e9\r\n".encode(), ""),
        (b"\xef\xbb\xbfx", "byte order mark (UTF-8)"),
        ("x".encode("utf-16"), "byte order mark (UTF-16)"),
        (b"a\0b", "NUL byte"),
        (b"\xe9", "not UTF-8"),
    ],
)
def test_text_that_is_not_plain_is_named(content: bytes, fault: str) -> None:
    assert fault in text_fault(content)
    assert bool(fault) == bool(text_fault(content))
