"""Messages between front and worker: bytes that are not a message are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from hsmd.daemon.ipc import worker_messages
from hsmd.errors import BadRequest, ProtocolError


@given(st.binary(max_size=200))
def test_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        worker_messages.decode_request(value)
    with pytest.raises(ProtocolError):
        worker_messages.decode_event(value)
