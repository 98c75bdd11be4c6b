"""The text that Prometheus reads: it has every number for any names, and no piece of it takes long to produce."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hypothesis import given, strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hsmd.metrics.daemon_families import families
from hsmd.metrics.exposition import Process, pieces
from hsmd.protocol.messages import CertificateEnd, Finding, ListEnd, Metrics, UseCount, VaultNumbers
from tests.support.metrics import NOON, numbers_of


def read(numbers: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample that the parser of the Prometheus library finds."""
    text = b"".join(pieces(families(numbers))).decode()
    found: dict[Any, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in found, f"{series} is listed twice"
            found[series] = sample.value
    return found


def test_all_numbers_are_exposed(numbers: Metrics) -> None:
    status = numbers.status
    status.audit_free_bytes = 7 << 20
    status.certificates, status.certificates_ended, status.certificates_ending = 5, 1, 2
    status.level, status.findings = "partial", [Finding("certificate-ended", "partial")]
    numbers.certificate_ends = [CertificateEnd("www", NOON, "ended")]
    numbers.list_ends.append(ListEnd("none", "ended"))
    numbers.vault = VaultNumbers(7, 2, {"match": 5, "no-answer": 1}, 3, 4, 6)
    found = read(numbers)
    expected = {
        ("hsmd_vault_acquisitions_total", (("outcome", "given"),)): 7,
        ("hsmd_vault_acquisitions_total", (("outcome", "refused"),)): 2,
        ("hsmd_vault_checks_total", (("verdict", "match"),)): 5,
        ("hsmd_vault_checks_total", (("verdict", "match-previous"),)): 0,
        ("hsmd_vault_checks_total", (("verdict", "mismatch"),)): 0,
        ("hsmd_vault_checks_total", (("verdict", "no-answer"),)): 1,
        ("hsmd_vault_checks_overloaded_total", ()): 3,
        ("hsmd_vault_management_keys_waiting", ()): 4,
        ("hsmd_vault_management_keys_held", ()): 6,
        ("hsmd_build_info", (("version", "0.1.0"),)): 1,
        ("hsmd_start_time_seconds", ()): numbers.status.started_at.timestamp(),
        ("hsmd_draining", ()): 0,
        ("hsmd_connections", (("state", "starting"),)): 9,
        ("hsmd_connections", (("state", "authenticated"),)): 7,
        ("hsmd_sessions", ()): 8,
        ("hsmd_keys", ()): 1,
        ("hsmd_clients", ()): 2,
        ("hsmd_grants", ()): 3,
        ("hsmd_audit_writable", ()): 1,
        ("hsmd_audit_records", ()): 44,
        ("hsmd_audit_records_covered", ()): 40,
        ("hsmd_audit_uncovered_seconds", ()): 6,
        ("hsmd_audit_free_bytes", ()): 7 << 20,
        ("hsmd_store_away_seconds", ()): 0,
        ("hsmd_certificates", ()): 5,
        ("hsmd_certificates_ended", ()): 1,
        ("hsmd_certificates_ending", ()): 2,
        ("hsmd_certificate_not_after_timestamp_seconds", (("key", "www"),)): NOON.timestamp(),
        ("hsmd_authority_list_ends_timestamp_seconds", (("authority", "root"),)): NOON.timestamp(),
        ("hsmd_authority_list_ends_timestamp_seconds", (("authority", "none"),)): 0,
        ("hsmd_health", (("level", "partial"),)): 1,
        ("hsmd_health", (("level", "well"),)): 0,
        ("hsmd_health_findings", (("condition", "certificate-ended"),)): 1,
        ("hsmd_health_findings", (("condition", "token-away"),)): 0,
        ("hsmd_token_state", (("state", "ready"), ("token", "main"))): 1,
        ("hsmd_token_state", (("state", "away"), ("token", "main"))): 0,
        ("hsmd_token_breaker", (("state", "closed"), ("token", "main"))): 1,
        ("hsmd_token_breaker", (("state", "open"), ("token", "main"))): 0,
        ("hsmd_token_queue_depth", (("token", "main"),)): 4,
        ("hsmd_token_in_flight", (("token", "main"),)): 5,
        ("hsmd_workers", (("state", "busy"), ("token", "main"))): 1,
        ("hsmd_worker_restarts_total", (("token", "main"),)): 3,
        (
            "hsmd_operation_seconds_bucket",
            (("key_type", "p-256"), ("le", "0.001"), ("purpose", "tls13-server")),
        ): 5,
        (
            "hsmd_operation_seconds_bucket",
            (("key_type", "p-256"), ("le", "+Inf"), ("purpose", "tls13-server")),
        ): 8,
        ("hsmd_operation_seconds_count", (("key_type", "p-256"), ("purpose", "tls13-server"))): 8,
        ("hsmd_operation_seconds_sum", (("key_type", "p-256"), ("purpose", "tls13-server"))): 0.5,
        (
            "hsmd_operations_total",
            (("client", "web-1"), ("key", "www"), ("outcome", "performed"), ("purpose", "tls13-server")),
        ): 1,
    }
    assert {series: found.get(series) for series in expected} == expected


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_names_are_escaped_inside_labels(name: str) -> None:
    """Names are checked when they are given; the exposition is correct even for unchecked names."""
    numbers = numbers_of(0)
    numbers.uses.append(UseCount(name, name, "tls13-server", "performed", 3, 0, 1.0))
    text = b"".join(pieces(families(numbers))).decode()
    lines = [line for line in text.split("\n") if line.startswith("hsmd_operations_total")]
    assert len(lines) == 1
    assert lines[0].endswith(" 3.0")


def test_a_thousand_series_are_produced_in_short_pieces() -> None:
    numbers = numbers_of(1_000)
    assert len([series for series in read(numbers) if series[0] == "hsmd_operations_total"]) == 1_000
    slowest = []
    for _ in range(5):
        steps, made = [], pieces(families(numbers))
        begun = time.perf_counter()
        for _ in made:
            steps.append(time.perf_counter() - begun)
            begun = time.perf_counter()
        slowest.append(max(steps))
    assert min(slowest) < 0.02, f"the slowest piece took {min(slowest) * 1e3:.1f} ms"


def test_the_process_is_described_where_proc_shows_only_processes(tmp_path: Path) -> None:
    """ProcSubset=pid of systemd hides /proc/stat and everything else that is not about a process."""
    (tmp_path / "self").symlink_to("/proc/self")
    text = b"".join(pieces(Process(str(tmp_path)).families())).decode()
    found = {family.name: family.samples[0].value for family in text_string_to_metric_families(text)}
    assert found["process_resident_memory_bytes"] > 1 << 20
    assert found["process_open_fds"] > 0
    assert time.time() - 86_400 < found["process_start_time_seconds"] < time.time() + 5
