"""The purpose `checkpoint`: exactly the text that hsmd.transparency writes and reads, and nothing similar."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hsmd.errors import ProtocolError, PurposeMismatch
from hsmd.purposes.checkpoint import check_checkpoint
from hsmd.transparency.checkpoint import Checkpoint, origin_of, parse_text

GOOD = Checkpoint("hsmd/daemon-1", 42, bytes(range(32))).text().encode()


def passes(data: bytes) -> bool:
    try:
        check_checkpoint(data)
    except PurposeMismatch:
        return False
    return True


@given(
    st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}", fullmatch=True),
    st.integers(0, 10**15),
    st.binary(min_size=32, max_size=32),
)
def test_every_checkpoint_of_a_daemon_passes(name: str, size: int, root: bytes) -> None:
    check_checkpoint(Checkpoint(origin_of(name), size, root).text().encode())


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.sampled_from(["replace", "insert", "drop"]))
def test_bytes_that_pass_are_a_checkpoint(at: int, byte: int, how: str) -> None:
    tail = GOOD[at + 1 :] if how != "insert" else GOOD[at:]
    edited = GOOD[:at] + (b"" if how == "drop" else bytes([byte])) + tail
    if passes(edited):
        assert parse_text(edited.decode()).text().encode() == edited


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD[:-1],
        GOOD + b"\n",
        GOOD + b"extension\n",
        GOOD.replace(b"hsmd/", b"other/"),
        GOOD.replace(b"42", b"042"),
        GOOD.replace(b"daemon-1", b""),
        GOOD.replace(b"daemon-1", b"a b"),
        GOOD.replace(b"daemon-1", b"a+b"),
        GOOD.replace(b"=", b""),
        GOOD.replace(b"\n", b"\r\n"),
        b" " * 64 + GOOD,
    ],
)
def test_near_misses_are_refused(data: bytes) -> None:
    assert not passes(data)


def test_a_root_with_unused_bits_set_is_refused() -> None:
    stray = GOOD[:-3] + b"9=\n"
    with pytest.raises(ProtocolError):
        parse_text(stray.decode())
    assert not passes(stray)
