"""Metrics of a real daemon, by Prometheus and by control request: they match what was done, and front ends may not read them."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hsmd.errors import HsmdError, Refused
from hsmd.protocol import messages
from hsmd.purposes import Purpose
from tests.support.daemon import AUDITOR, MAIL, WEB, Daemon, run_aside, running_daemon
from tests.support.polling import wait_until
from tests.support.ssh_peer import operation, ssh, wire
from tests.support.tls_bytes import P256, tls13


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Daemon]:
    with running_daemon(tmp_path / "daemon", metrics="127.0.0.1:0") as running:
        yield running


def scrape(running: Daemon) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name, then by label values in the order of the labels' names."""
    port = int(running.logged("metrics.listening")[-1]["address"].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            values = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[values] = sample.value
    return found


def use(
    running: Daemon, key: bytes, client: str, count: int, purpose: Purpose = Purpose.TLS13_SERVER
) -> list[Any]:
    async def work() -> list[Any]:
        ended: list[Any] = []
        async with running.connection(client) as connection:
            for number in range(count):
                try:
                    ended.append(await connection.use_key(key, purpose, P256, tls13(number), timeout_s=10))
                except HsmdError as error:
                    ended.append(error)
        return ended

    ended: list[Any] = run_aside(work)
    return ended


def test_metrics_match_what_was_done(observed: Daemon) -> None:
    key = observed.add_key("site")
    assert all(isinstance(answer, bytes) for answer in use(observed, key, WEB, 5))
    assert all(isinstance(error, Refused) for error in use(observed, key, MAIL, 3))
    use(observed, b"\xee" * 32, MAIL, 2)

    found = scrape(observed)
    operations = found["hsmd_operations_total"]
    assert operations[WEB, "site", "performed", "tls13-server"] == 5
    assert operations[MAIL, "site", "refused", "tls13-server"] == 3
    assert operations[MAIL, "other", "refused", "tls13-server"] == 2
    assert found["hsmd_operation_seconds_count"]["p-256", "tls13-server"] == 5
    assert 0 < found["hsmd_operation_seconds_sum"]["p-256", "tls13-server"] < 50
    assert found["hsmd_token_state"]["ready", "main"] == 1
    assert found["hsmd_audit_writable"][()] == 1
    assert found["hsmd_audit_records"][()] == len(observed.audit())
    assert found["hsmd_keys"][()] == 1
    assert found["process_resident_memory_bytes"][()] > 1 << 20

    numbers: messages.Metrics = observed.ask(messages.MetricsRead(), AUDITOR)
    shown = {(use.client, use.key, use.outcome, use.purpose): use.count for use in numbers.uses}
    assert shown == operations
    assert numbers.status.sessions == 1
    with pytest.raises(Refused):
        observed.ask(messages.MetricsRead(), WEB)


def test_unknown_codes_share_one_series(observed: Daemon) -> None:
    """Unknown purposes of a logged-in client share one series."""
    unknown = sorted(set(range(1, 256)) - set(map(int, Purpose)))
    key = observed.add_key("site")

    async def work() -> None:
        async with await ssh(observed, WEB) as connection:
            channel = await wire(connection)
            for number in unknown:
                channel.write(operation(number, key, tls13(number), purpose=number))
            for number in unknown:
                await channel.answer(number)

    run_aside(work)
    assert scrape(observed)["hsmd_operations_total"][WEB, "site", "refused", "other"] == len(unknown) > 200
    assert (
        len(scrape(observed)["hsmd_operations_total"]) <= 2
    )  # the other one may be the key's certificate request


def test_a_reload_moves_the_endpoint(observed: Daemon) -> None:
    scrape(observed)
    text = observed.config.read_text()
    observed.config.write_text(re.sub(r'(\[metrics\]\naddress = ")[^"]*', r"\1", text))
    assert observed.reload() == "done"
    with pytest.raises(OSError):
        wait_until(lambda: scrape(observed) is None, within_s=5)
    observed.config.write_text(text)
    assert observed.reload() == "done"
    wait_until(lambda: len(observed.logged("metrics.listening")) == 2)
    assert scrape(observed)["hsmd_draining"][()] == 0
