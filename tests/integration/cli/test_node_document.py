"""docs/node.md, done word by word: by an operator, and on a host with nginx; other are only paths, the port, and systemd."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import running_daemon
from tests.support.documents import blocks_of, in_shell, operator_home
from tests.support.network import free_port
from tests.support.polling import wait_until
from tests.support.processes import Process, program
from tests.support.tokens import ROOT

pytestmark = pytest.mark.timeout(180)
PAGE = ROOT / "docs" / "node.md"


def test_the_document_can_be_followed_word_by_word(tmp_path: Path) -> None:
    program("nginx")
    operator, setup, service, status = blocks_of(PAGE)
    home, port = tmp_path / "home", free_port()

    def here(block: str) -> str:
        block = block.replace("127.0.0.1:443", f"127.0.0.1:{port}")
        block = block.replace("hsmd node install", "hsmd node install --print")
        block = re.sub(r"^systemctl .*$", ":", block, flags=re.MULTILINE)
        return re.sub(r"hsmd node (\w+)", rf"hsmd node \1 --config '{home}/node.toml'", block)

    with running_daemon(tmp_path / "daemon") as daemon, ExitStack() as resources:
        operator_home(home, daemon)
        authority = (
            "hsmd ca init root --common-name 'Example CA 1' --for server --dns example.com --longest 90d"
        )
        in_shell(f"{authority}\n{operator}", home)
        told = in_shell(here(setup), home)
        lines = told.partition("In the configuration of nginx:")[2].partition("2. Reload it")[0]
        assert "ssl_certificate_key" in lines
        assert "ssl_crl" not in lines, "there is no list of the authority yet"
        resources.callback(nginx(home, port, lines).stop)
        shown = in_shell(here(service), home)
        assert "www.example.com at 127.0.0.1" in shown
        assert "ExecStart=" in shown
        shown = in_shell(here(status), home)
        assert shown.rstrip().endswith('"ok"')


def nginx(home: Path, port: int, lines: str) -> Process:
    """nginx with the lines that `hsmd node init` has printed."""
    (home / "nginx.conf").write_text(f"""
daemon off; pid {home}/nginx.pid; error_log stderr; worker_processes 1;
events {{}}
http {{
  access_log off;
  client_body_temp_path {home}/t1; proxy_temp_path {home}/t2; fastcgi_temp_path {home}/t3; uwsgi_temp_path {home}/t4;
  scgi_temp_path {home}/t5;
  server {{ listen 127.0.0.1:{port} ssl; {lines} location / {{ return 200; }} }}
}}
""")
    process = Process([program("nginx"), "-c", f"{home}/nginx.conf", "-p", str(home)], home / "nginx.log")

    def listens() -> bool:
        process.check("nginx")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, "nginx listens", 15)
    return process
