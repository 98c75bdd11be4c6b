"""Settings that the launcher sends to a worker."""

from __future__ import annotations

import msgspec

from hsmd.daemon.ipc.worker_settings import WorkerSettings
from hsmd.pkcs11.settings import TokenSettings


def test_settings_survive_a_round_trip() -> None:
    settings = WorkerSettings(
        token=TokenSettings(module="/m.so", serial="01", pin_credential="pin"), verify="all", control=True
    )
    assert msgspec.json.decode(msgspec.json.encode(settings), type=WorkerSettings) == settings
