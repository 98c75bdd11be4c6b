"""`hsmd node run`: passes at their times until a signal ends it. SIGHUP reads the configuration again and makes a pass."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hsmd import observe
from hsmd.errors import ConfigurationError, Conflict
from hsmd.node import config as configuration, state
from hsmd.node.config import NodeConfig
from hsmd.node.daemons import Daemons
from hsmd.node.passes import Node
from hsmd.node.state import NodeState
from hsmd.system import sd_notify
from hsmd.system.process import harden

RETRY = timedelta(seconds=10)
"""After a pass that could not be made at all."""

log = observe.logger()


class Service:
    """The loop. `stop` and `look` may be called from signal handlers."""

    def __init__(self, file: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._file = file
        self._now = now
        self._awake = threading.Event()
        self._stopping = False
        self._outdated = False
        self._begun = False

    def stop(self) -> None:
        """End after the pass that is being made."""
        self._stopping = True
        self._awake.set()

    def look(self) -> None:
        """Read the configuration again, and make a pass."""
        self._outdated = True
        self._awake.set()

    def run(self) -> None:
        """Make passes until `stop`. Raises ConfigurationError for the configuration at the start."""
        config = configuration.load(self._file)
        sd_notify.notify("READY=1")
        while not self._stopping:
            self._awake.clear()
            if self._outdated:
                self._outdated = False
                config = self._load_again(config)
            next_at = self._pass(config)
            if not self._stopping:
                self._awake.wait(max(0.0, (next_at - self._now()).total_seconds()))
        sd_notify.notify("STOPPING=1")

    def _load_again(self, config: NodeConfig) -> NodeConfig:
        try:
            return configuration.load(self._file)
        except ConfigurationError as error:
            log.error("node.configuration_refused", error=error.text)
            return config

    def _pass(self, config: NodeConfig) -> datetime:
        """When the next one is to be made."""
        try:
            with state.locked(config.state), Daemons(config.daemons) as daemons:
                known = state.read(config.state).problems
                done = Node(config, now=self._now).make_pass(daemons)
        except (Conflict, OSError) as error:
            log.error("node.no_pass", error=error.text if isinstance(error, Conflict) else str(error))
            return self._now() + RETRY
        except Exception as error:
            # A fault of ours, or something that a daemon found out: it must not end what keeps the certificate alive. The text
            # of such an error may hold anything.
            log.error("node.no_pass", error=f"internal error: {type(error).__name__}")
            return self._now() + RETRY
        self._tell_known(known, done)
        sd_notify.notify(f"STATUS={_status(done)}")
        return done.next_at or self._now() + RETRY

    def _tell_known(self, known: list[str], done: NodeState) -> None:
        """Log at the start what was a problem before it, too: passes log only what is new."""
        if not self._begun:
            self._begun = True
            for text in done.problems:
                if text in known:
                    log.warning("node.problem", error=text)


def main(file: Path, level: str = "info") -> None:
    """Run until SIGTERM or SIGINT. Raises ConfigurationError, OSError."""
    observe.configure("node", level)
    harden()
    service = Service(file)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    signal.signal(signal.SIGHUP, lambda *_: service.look())
    log.info("node.started", path=str(file))
    service.run()
    log.info("node.stopped")


def _status(done: NodeState) -> str:
    return "; ".join(done.problems)[:200] or "well"
