"""One pass of a node: ask for anchors and lists, renew what is due, switch the files, reload the program, and probe it.

Each step can fail without the others: a daemon that is away does not keep a program from being probed. A crash between any two
steps is made good by the next pass, because what the program has loaded is remembered only when it has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography import x509

from hsmd import observe
from hsmd.anchors import pem_bundle
from hsmd.anchors.problems import CertificatesInvalid, UpdateRefused
from hsmd.deployment import reloads, version_directories
from hsmd.deployment.servers import Server
from hsmd.errors import Conflict, DeadlineExceeded, HsmdError, ProtocolError, Unavailable
from hsmd.node import documents, probe, renewal, state
from hsmd.node.config import NodeConfig
from hsmd.node.documents import Kept, RevocationLists
from hsmd.node.probe import Outcome, Whose
from hsmd.node.programs import ANCHORS
from hsmd.node.state import NodeState, ProbeState
from hsmd.node.tls_keys import TlsKey
from hsmd.node.trust import Certificates, refreshed
from hsmd.protocol.messages import NodeAnchors, NodeCertificate, NodeDocuments, NodeTrust, Request

SETTLE_S = 20.0
"""How long a program that was reloaded is given to show its new certificate: servers reload in the background."""
PAUSE_S = 0.2

log = observe.logger()


class Asks(Protocol):
    """What answers requests: `Daemons`. `used` is the address of the daemon that answered last."""

    used: str

    def ask(self, request: Request) -> object:
        """The result. Raises HsmdError."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks for besides what is due."""

    renew: bool = False
    new_key: bool = False


class Node:
    """Keeps the files of one program. Methods block; callers hold the lock of `state`."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = time.sleep,
        reload: Callable[[Server], str] = reloads.reload,
    ) -> None:
        self._config = config
        self._now = now
        self._pause = pause
        self._reload = reload

    def make_pass(self, daemons: Asks, wish: Wish = Wish()) -> NodeState:
        """Make one pass; the new state is stored, and has what went wrong. Raises OSError if it cannot be stored."""
        config = self._config
        before = state.read(config.state)
        found = _Found(before)
        try:
            kept = self._read(found)
        except (OSError, CertificatesInvalid) as error:
            fault = documents.fault_of(error, self._current)
            return self._stop(
                found, f"{fault}; restore {ANCHORS}, or set the node up again: hsmd node init --again"
            )
        except HsmdError as error:  # of the token or agent that has the key
            return self._stop(found, error.text)
        kept = self._ask(daemons, kept, found, wish)
        return self._install(kept, found, daemons.used)

    def change(self, alter: Callable[[Kept], Kept], daemons: Asks) -> NodeState:
        """Change what is kept, and have it loaded. Raises what `alter` raises, OSError, CertificatesInvalid, Conflict.

        A new anchor comes with the revocation lists of its authority: servers that look at lists refuse its certificates
        without one.
        """
        before = documents.read(self._config.files)
        if before is None:
            raise Conflict("the node keeps nothing yet: hsmd node renew")
        found = _Found(state.read(self._config.state))
        kept = alter(before)
        with _Noting(found, self._config.files):
            kept, _ = self._refresh(daemons, kept, found)
        if before.has_all_lists and not kept.has_all_lists:
            found.note(
                trust_error="there is no revocation list of the new authority yet, so servers that look at lists would refuse"
                " its certificates; an operator signs one: hsmd ca crl"
            )
        return self._install(kept, found, daemons.used)

    def _install(self, kept: Kept | None, found: _Found, used: str) -> NodeState:
        """Write, load and probe; the new state is stored."""
        version = self._write(kept, found) if kept is not None and kept.chain else ""
        found = self._load(version, found)
        if version and kept is not None:
            found.note(probes=self._probe(kept, reloaded=found.reloaded))
        done = self._finish(found, kept, used)
        state.write(self._config.state, done)
        _log(found.before, done)
        return done

    def check(self) -> list[Outcome]:
        """Make the handshakes of the configuration once, and remember how they came out. Raises OSError, CertificatesInvalid."""
        kept = documents.read(self._config.files)
        if kept is None or not kept.chain:
            return []
        outcomes = probe.probe_all(self._config.probes, self._current, kept.leaf_digest)
        probes = tuple(ProbeState(each.probe, each.error) for each in outcomes)
        state.write(
            self._config.state, msgspec.structs.replace(state.read(self._config.state), probes=probes)
        )
        return outcomes

    # --- steps ---

    @property
    def _current(self) -> Path:
        return self._config.files / version_directories.CURRENT

    def _read(self, found: _Found) -> Kept | None:
        """What is kept; of damaged files the anchors, for which there is no other source, and a new key.

        Raises CertificatesInvalid and OSError if the anchors cannot be read, or are gone: they are never taken from a daemon
        again, unless the node is set up again.
        """
        if found.before.anew:
            return None
        try:
            kept = documents.read(self._config.files)
            if kept is None and found.before.had_files:
                raise CertificatesInvalid(f"{self._current} is gone")
            return kept
        except (OSError, CertificatesInvalid) as error:
            anchors = documents.read_anchors(self._config.files)
            fault = documents.fault_of(error, self._current)
            found.note(files_error=f"files were damaged, and are made anew: {fault}")
            return Kept(self._config.keys.new(), (), anchors)

    def _ask(self, daemons: Asks, kept: Kept | None, found: _Found, wish: Wish) -> Kept | None:
        """Anchors and lists as the daemon has them, and a new certificate if one is due. Failures are noted."""
        offered: RevocationLists = ()
        with _Noting(found, self._config.files):
            kept, offered = self._refresh(daemons, kept, found)
            if (served := self._config.keys.served()) is not None:
                kept = self._follow(kept, *served, found)
            elif self._needs_certificate(kept, wish) and self._may_ask(wish, found):
                kept = self._renew(daemons, kept, wish, found)
                found.note(renewed_at=self._now())
        # With the authorities of the chain that is there now: the first certificate brings some.
        kept = None if kept is None else kept.with_lists(offered)
        if kept is not None and (ended := kept.ended_lists(self._now())):
            found.note(
                lists_error=f"the revocation list of {'; '.join(ended)} has ended, and servers that look for it refuse all"
                " clients; an operator signs a new one: hsmd ca crl"
            )
        return kept

    def _refresh(self, daemons: Asks, kept: Kept | None, found: _Found) -> tuple[Kept, RevocationLists]:
        """Anchors as the daemon has them, and lists that are of no use unless an authority of the node has signed them."""
        answer = daemons.ask(NodeTrust(self._config.authority))
        assert isinstance(answer, NodeAnchors)
        offered = pem_bundle.parse(answer.anchors.encode(), "the anchors that the daemon offers")
        lists = _offered_lists(answer, found)
        held = kept or Kept(self._config.keys.new(), (), ())
        try:
            anchors = refreshed(held.anchors, offered)
        except UpdateRefused as error:
            found.note(trust_error=error.text)
            anchors = held.anchors
        return replace(held, anchors=anchors).with_lists(lists), lists

    def _needs_certificate(self, kept: Kept, wish: Wish) -> bool:
        if not kept.chain or wish.renew or wish.new_key or kept.is_revoked:
            return True
        leaf = kept.leaf
        due = renewal.due(leaf.not_valid_before_utc, leaf.not_valid_after_utc, self._config.client)
        return self._now() >= due

    def _may_ask(self, wish: Wish, found: _Found) -> bool:
        """Whether a certificate may be asked for now. If not, what was wrong with the last one is still wrong."""
        before = found.before
        if wish.renew or wish.new_key or renewal.may_ask(before.asked_at, before.wasted, self._now()):
            return True
        found.keep("daemon_error", "trust_error", "files_error")
        return False

    def _get_certificate(self, daemons: Asks, request: str, found: _Found) -> NodeDocuments:
        """Ask for a certificate. That it was asked for is stored before, so that crashes count, too."""
        config, before = self._config, found.before
        documents.prepare(config.files, config.access)
        found.note(asked_at=self._now(), wasted=before.wasted + 1)
        state.write(
            config.state, msgspec.structs.replace(before, asked_at=self._now(), wasted=before.wasted + 1)
        )
        try:
            answer = daemons.ask(NodeCertificate(config.authority, request))
        except (Unavailable, DeadlineExceeded, ProtocolError):
            raise  # there may be one
        except HsmdError:
            found.note(wasted=before.wasted)
            raise
        assert isinstance(answer, NodeDocuments)
        return answer

    def _renew(self, daemons: Asks, kept: Kept, wish: Wish, found: _Found) -> Kept:
        """A new certificate: for the same key, unless another is asked for, or it was revoked, or is of another type now."""
        keys = self._config.keys
        is_new = wish.new_key or (bool(kept.chain) and kept.is_revoked) or not keys.suits(kept.key)
        key = keys.new() if is_new else kept.key
        if is_new and kept.chain and key.public == kept.key.public:
            why = "the certificate was revoked" if kept.is_revoked else "another key is asked for"
            raise CertificatesInvalid(
                f"{why}, and the node makes no second key in a token; give another label in its configuration"
            )
        answer = self._get_certificate(daemons, keys.request(key), found)
        chain = pem_bundle.parse(answer.chain.encode(), "the chain of the daemon")
        return self._with_chain(kept, key, chain)

    def _follow(self, kept: Kept, key: TlsKey, chain: Certificates, found: _Found) -> Kept:
        """The chain of a key that others certify, checked as one of the node's own."""
        if (kept.key, kept.chain) == (key, chain):
            return kept
        followed = self._with_chain(kept, key, chain)
        found.note(renewed_at=self._now())
        return followed

    def _with_chain(self, kept: Kept, key: TlsKey, chain: Certificates) -> Kept:
        """The same with this key and chain. Raises CertificatesInvalid if they are of no use now."""
        documents.check_chain(chain, key, self._now())
        documents.check_anchored(chain, kept.anchors)
        return replace(kept, key=key, chain=chain)

    def _write(self, kept: Kept, found: _Found) -> str:
        """The version that is current then; empty if it cannot be written."""
        config = self._config
        files = kept.files(config.program)
        try:
            if not version_directories.is_current(config.files, documents.version_of(files), files):
                documents.prepare(config.files, config.access)
            version = documents.write(config.files, files, config.access)
        except OSError as error:
            found.note(files_error=documents.fault_of(error, config.files))
            return version_directories.current(config.files)
        found.note(anew=False)
        if found.values.get("renewed_at"):
            found.note(wasted=0)
        return version

    def _load(self, version: str, found: _Found) -> _Found:
        """Have the program load the version, if it has not."""
        if not version or version == found.before.loaded:
            found.note(reload_error="" if not version else found.before.reload_error)
            return found
        fault = self._reload(self._config.server)
        found.note(reload_error=fault, loaded=found.before.loaded if fault else version)
        # A program that is not set up yet shows nothing, however long it is waited for.
        found.reloaded = not fault and bool(found.before.loaded)
        return found

    def _probe(self, kept: Kept, *, reloaded: bool) -> tuple[ProbeState, ...]:
        """Behind a reload the own certificate may take a moment to appear; otherwise one handshake is one answer."""
        until = time.monotonic() + SETTLE_S
        waiting = list(self._config.probes)
        done: dict[str, str] = {}
        while True:
            outcomes = probe.probe_all(waiting, self._current, kept.leaf_digest)
            done |= {each.probe: each.error for each in outcomes}
            failed = {each.probe for each in outcomes if each.error}
            waiting = [each for each in waiting if each.text in failed and each.whose is Whose.OWN]
            if not reloaded or not waiting or time.monotonic() >= until:
                return tuple(ProbeState(each.text, done[each.text]) for each in self._config.probes)
            self._pause(PAUSE_S)

    def _stop(self, found: _Found, fault: str) -> NodeState:
        found.note(files_error=fault)
        done = self._finish(found, None, "")
        state.write(self._config.state, done)
        _log(found.before, done)
        return done

    def _finish(self, found: _Found, kept: Kept | None, used: str) -> NodeState:
        now = self._now()
        failed = bool(
            found.values.get("daemon_error")
            or found.values.get("trust_error")
            or found.values.get("lists_error")
        )
        begins, ends = (now, now) if kept is None or not kept.chain else _dates(kept.leaf)
        next_at = renewal.next_look(begins, ends, now, failed=failed)
        if begins == ends:
            next_at = now + timedelta(seconds=renewal.NONE_S)
        return found.state(passed_at=now, next_at=next_at, daemon=used or found.before.daemon)


def _offered_lists(answer: NodeAnchors, found: _Found) -> RevocationLists:
    """The lists of an answer; none if they are malformed: a certificate that is due is renewed nevertheless."""
    try:
        return documents.parse_lists(answer.revocation_lists.encode(), "the revocation lists of the daemon")
    except CertificatesInvalid as error:
        found.note(trust_error=error.text)
        return ()


class _Found:
    """What a pass has found out so far."""

    def __init__(self, before: NodeState) -> None:
        self.before = before
        self.values: dict[str, object] = {}
        self.reloaded = False

    def note(self, **values: object) -> None:
        self.values |= values

    def keep(self, *names: str) -> None:
        """What the last pass noted is still so, where this one has noted nothing."""
        self.values = {name: getattr(self.before, name) for name in names} | self.values

    def state(self, **values: object) -> NodeState:
        """The state after the pass: errors are those of this pass."""
        fresh = {
            "daemon_error": "",
            "trust_error": "",
            "lists_error": "",
            "files_error": "",
            "reload_error": "",
            "probes": (),
        }
        return msgspec.structs.replace(self.before, **{**fresh, **self.values, **values})


class _Noting:
    """What daemons refuse, or cannot be asked, is a problem of the pass and does not end it; nor do keys that cannot be read."""

    def __init__(self, found: _Found, files: Path) -> None:
        self._found = found
        self._files = files

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UpdateRefused | CertificatesInvalid):
            self._found.note(trust_error=error.text)
        elif isinstance(error, HsmdError):
            self._found.note(daemon_error=error.text)
        elif isinstance(error, OSError):
            self._found.note(files_error=documents.fault_of(error, self._files))
        return isinstance(error, HsmdError | OSError)


def _dates(leaf: x509.Certificate) -> tuple[datetime, datetime]:
    return leaf.not_valid_before_utc, leaf.not_valid_after_utc


def _log(before: NodeState, done: NodeState) -> None:
    """A line for what changed: a certificate, a reload, and each problem once."""
    if done.renewed_at != before.renewed_at:
        log.info("node.renewed", daemon=done.daemon)
    if done.loaded != before.loaded:
        log.info("node.loaded", version=done.loaded)
    for text in done.problems:
        if text not in before.problems:
            log.warning("node.problem", error=text)
    if before.problems and not done.problems:
        log.info("node.well")
