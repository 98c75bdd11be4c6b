"""The contents of a daemon, as its commands print them: read from the old daemon for the fixtures, and from the new one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Ask = Callable[..., Any]
"""Runs an operator's `hsmd` command with --json and returns its document; exit code 4 ("problems found") is no failure."""

AT_ONCE = 4

CHAINS = ("shop", "imported", "adopted")
"""Keys whose certificate chains are compared here; other chains are exported by an agent."""

EXPLAINED = (
    ("web-1", "www", "tls13-server"),
    ("web-2", "shop", "tls12-server"),
    ("web-2", "shop", "tls12-client"),
)
"""Arguments of `hsmd grant explain`: client, key, purpose."""


def contents(ask: Ask) -> dict[str, Any]:
    """Keys, clients, grants and all else that only an operator changes."""
    keys, clients, grants, owners, revocations, tokens = _together(
        ask,
        [
            ("key", "list"),
            ("client", "list"),
            ("grant", "list"),
            ("key", "owner", "list"),
            ("client", "revoked"),
            ("token", "list"),
        ],
    )
    return {
        "keys": keys["keys"],
        "clients": clients["clients"],
        "grants": grants["grants"],
        "owners": owners["owners"],
        "revocations": revocations["revocations"],
        "tokens": [
            {name: token[name] for name in ("name", "missing", "unknown", "stopped_at")}
            for token in tokens["tokens"]
        ],
    }


def details(ask: Ask) -> dict[str, Any]:
    """Contents that take more commands: some chains and decisions, counts, the caller, the key that signs checkpoints."""
    chains = _together(ask, [("cert", "export", name) for name in CHAINS])
    explained = _together(ask, [("grant", "explain", *question) for question in EXPLAINED])
    status, key = _together(ask, [("status",), ("audit", "key")])
    return {
        "chains": {name: chain["pem"] for name, chain in zip(CHAINS, chains, strict=True)},
        "explained": [
            [*question, found["allowed"]] for question, found in zip(EXPLAINED, explained, strict=True)
        ],
        "counts": {name: status["daemon"][name] for name in ("keys", "clients", "grants")},
        "identity": status["identity"],
        "verifier_key": key["verifier_key"],
    }


def as_before(found: Any, before: Any) -> Any:
    """A document without the members that the document of an earlier release has not: documents may gain members."""
    if isinstance(found, dict) and isinstance(before, dict):
        return {name: as_before(value, before[name]) for name, value in found.items() if name in before}
    if isinstance(found, list) and isinstance(before, list):
        pairs = zip(found, before, strict=False)
        return [as_before(*pair) for pair in pairs] + found[len(before) :]
    return found


def _together(ask: Ask, commands: Sequence[tuple[str, ...]]) -> list[Any]:
    """Run commands in parallel, because most of their time is the start of an interpreter; return their documents."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda command: ask(*command), commands))
