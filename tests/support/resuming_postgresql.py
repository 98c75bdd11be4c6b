"""PostgreSQL with certificates of server and clients, which can be reloaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.network import free_port
from tests.support.postgresql import running_cluster
from tests.support.resumption import HOST, Files

LOADED = ("chain.pem", "key.pem", "anchors.pem", "lists.pem")


@contextmanager
def running_postgresql(files: Files) -> Iterator[tuple[int, Callable[[], None]]]:
    """Its port, and a call that gives it the files as they are now and reloads it, which it does a little later."""
    port = free_port(HOST)
    data: list[Path] = []

    def give() -> None:
        for name in LOADED:
            made = data[0] / f"{name}.new"
            made.write_bytes(files.path(name).read_bytes())
            made.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(made, "postgres", "postgres")
            made.replace(data[0] / name)

    def prepare(directory: Path) -> Mapping[str, object]:
        data.append(directory)
        give()
        kept = [
            line
            for line in (directory / "pg_hba.conf").read_text().splitlines()
            if not line.startswith("host")
        ]
        kept.append("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca")
        (directory / "pg_hba.conf").write_text("\n".join(kept) + "\n")
        return {
            "listen_addresses": HOST, "port": port, "ssl": "on", "ssl_cert_file": "chain.pem", "ssl_key_file": "key.pem",
            "ssl_ca_file": "anchors.pem", "ssl_crl_file": "lists.pem",
        }  # fmt: skip

    with running_cluster(prepare) as cluster:

        def reload() -> None:
            give()
            with psycopg.connect(
                host=str(cluster.sockets), port=port, user="postgres", autocommit=True
            ) as connection:
                connection.execute("SELECT pg_reload_conf()")

        yield port, reload
