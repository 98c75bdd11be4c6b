"""Keys imported in parallel loops while another key signs: an import never disturbs signing.

HSMD_TEST_IMPORTS is the number of imports of each of the three loops.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.daemon import OPERATOR, WEB, Daemon, running_daemon
from tests.support.load import Load
from tests.support.processes import environment, hsmd

LOOPS = 3
IMPORTS = int(os.environ.get("HSMD_TEST_IMPORTS", "2"))

pytestmark = pytest.mark.timeout(60 + IMPORTS * 30)


async def import_keys(daemon: Daemon, directory: Path, loop: int) -> None:
    target = (
        *("--daemon", ":".join(map(str, daemon.address)), "--user", OPERATOR),
        *("--identity", daemon.directory / OPERATOR, "--host-key", daemon.notice["host_key"]),
        *("--config", daemon.config, "--timeout", "30"),
    )
    for number in range(IMPORTS):
        pem = directory / f"{loop}-{number}.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        process = await asyncio.create_subprocess_exec(
            *hsmd("key", "import", f"imported-{loop}-{number}", pem, *target),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()


async def test_imports_do_not_disturb_signing(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "daemon", workers=2, spare=True) as daemon:
        key = await asyncio.to_thread(daemon.add_key, "site")
        async with Load(daemon, WEB, key, parallel=2, timeout_s=5.0) as load:
            await asyncio.gather(*(import_keys(daemon, tmp_path, loop) for loop in range(LOOPS)))
        opened = daemon.logged("token.breaker_open")
        print(
            f"{LOOPS * IMPORTS} imports, {len(load.done)} signatures, longest {max(d.took_s for d in load.done):.2f} s"
        )
        assert opened == []
        assert [done.error for done in load.done if done.error is not None] == []
        assert load.done, "signatures went on"
