"""Checkpoints of a real daemon: signed in the token, provable, kept over a restart, and never caused by checkpoints alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hsmd.errors import NotFound, Refused
from hsmd.protocol import messages
from hsmd.transparency import checkpoint
from hsmd.transparency.checkpoint import Checkpoint
from hsmd.transparency.keyring import KeyRing
from hsmd.transparency.lines import leaf_hash
from hsmd.transparency.merkle import verify_consistency, verify_inclusion
from hsmd.transparency.note import Verifier
from hsmd.transparency.verification import verify_log
from tests.support.daemon import AUDITOR, OPERATOR, WEB, Daemon, running_daemon
from tests.support.polling import wait_until


def newest(daemon: Daemon, since: int = 0) -> tuple[Checkpoint, messages.SignedCheckpoint]:
    answer = daemon.ask(messages.AuditCheckpoint(since=since), WEB)
    return checkpoint.parse(answer.note, Verifier.from_vkey(answer.verifier_key)), answer


def covered(daemon: Daemon) -> int:
    return int(daemon.status().audit_covered)


def test_checkpoints_continue_after_a_restart(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_s=1) as daemon:
        wait_until(lambda: covered(daemon), what="the first checkpoint")
        first, _ = newest(daemon)
        assert first.origin == "hsmd/test"
        daemon.add_key("site", "p-256", "tls-server")
        wait_until(lambda: covered(daemon) > first.size, what="a checkpoint of the later records")
        second, answer = newest(daemon, first.size)
        verify_consistency(first.size, second.size, first.root, second.root, answer.proof)
        _prove_some_records(daemon, second)
        assert daemon.ask(messages.AuditCheckpoint(since=second.size + 1)).proof == []

        daemon.stop()
        daemon.start()
        again, answer = newest(daemon, second.size)
        verify_consistency(second.size, again.size, second.root, again.root, answer.proof)
        assert again.size > second.size, "the last checkpoint is made when the daemon stops"
        assert (
            len([key for key in daemon.ask(messages.KeyList()).keys if key.purposes == ["checkpoint"]]) == 1
        )
        daemon.stop()
        with daemon.audit_path.open("rb") as lines:
            verdict = verify_log(
                lines, KeyRing([Verifier.from_vkey(answer.verifier_key)]), seen=[first, second, again]
            )
        assert verdict.intact, verdict.reason
        assert verdict.checkpoints >= 3


def _prove_some_records(daemon: Daemon, at: Checkpoint) -> None:
    for index in (0, at.size // 2, at.size - 1):
        proven = daemon.ask(messages.AuditProve(index=index), AUDITOR)
        assert proven.size >= at.size
        if proven.size == at.size:
            verify_inclusion(index, at.size, leaf_hash(proven.line.encode()), proven.proof, at.root)
    with pytest.raises(NotFound, match="covers only the first"):
        daemon.ask(messages.AuditProve(index=10**9))
    with pytest.raises(NotFound, match="about you"):
        daemon.ask(messages.AuditProve(index=0), WEB)
    with pytest.raises(Refused):
        daemon.ask(messages.AuditStand(), WEB)


def test_an_idle_daemon_signs_no_checkpoint(tmp_path: Path) -> None:
    with running_daemon(tmp_path, checkpoint_s=1) as daemon:
        wait_until(lambda: covered(daemon), what="the first checkpoint")
        wait_until(
            lambda: daemon.ask(messages.Status(), OPERATOR).audit_uncovered_s == 0,
            what="a checkpoint that covers all records",
        )
        quiet = [record["index"] for record in daemon.audit("log.checkpoint")]
        two_intervals_later = time.monotonic() + 2.2
        wait_until(lambda: time.monotonic() > two_intervals_later)
        assert [record["index"] for record in daemon.audit("log.checkpoint")] == quiet
