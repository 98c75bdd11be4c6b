"""scripts/quickstart after its installation of packages: six handshakes, each found in the audit log; then it removes everything."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "tls13-ecdsa-p256": ("TLSv1.3", "ecdsa_secp256r1_sha256"),
    "tls13-rsa-pss": ("TLSv1.3", "rsa_pss_rsae_sha256"),
    "tls13-ed25519": ("TLSv1.3", "ed25519"),
    "tls12-ecdhe-ecdsa": ("TLSv1.2", "ecdsa_secp256r1_sha256"),
    "tls12-ecdhe-rsa": ("TLSv1.2", "rsa_pss_rsae_sha256"),
    "tls12-rsa-kx": ("TLSv1.2", None),
}


def quickstart(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the script without its first half, which would reinstall hsmd while other tests use it."""
    command = [sys.executable, ROOT / "scripts" / "quickstart.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that nginx's workers can reach, unlike pytest's; always removed in the end."""
    with tempfile.TemporaryDirectory(prefix="hsmd-quickstart-test-") as parent:
        Path(parent).chmod(0o755)
        path = Path(parent) / "quickstart"
        yield path
        quickstart("--down", "--dir", path)


def processes_in(directory: Path) -> list[str]:
    """Command lines of processes that contain the directory."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(directory) in line and "quickstart.py" not in line:
            found.append(line)
    return found


@pytest.mark.timeout(300)
def test_six_verified_handshakes_and_nothing_left(directory: Path) -> None:
    done = quickstart("--json", "--tls12", "--dir", directory)
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["handshake"]: (one["protocol"], one["signature"]) for one in seen} == EXPECTED
    assert all(one["verified"] and len(one["digest"]) == 64 for one in seen)
    assert len({one["audit_record"] for one in seen} | {one["digest"] for one in seen}) == 12
    assert processes_in(directory)

    assert quickstart("--down", "--dir", directory).returncode == 0
    assert not directory.exists()
    assert processes_in(directory) == []


def test_quickstart_removes_no_directory_it_did_not_create(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = quickstart("--down", "--dir", tmp_path)
    assert done.returncode == 1
    assert "was not created by this script" in done.stderr
    assert (tmp_path / "precious").exists()
