"""The agent, a process on a front end: lets local users use a daemon's keys over a Unix socket. It stores no private key."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from pathlib import Path

from hsmd import observe
from hsmd.agent.agent import Agent, run
from hsmd.system.process import harden, run_as_batch

__all__ = ["Agent", "main", "run"]


def main(config_path: Path, *, log_level: str = "info") -> int:
    """Run the agent with the configuration in `config_path` until it is stopped; return the exit code.

    Raises ConfigurationError (all faults of the file) or Conflict (another agent uses the socket).
    """
    harden()
    run_as_batch()
    observe.configure("agent", log_level)
    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(run(config_path))
    return 0


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
