"""Control requests of a daemon, answered in memory through the protocol's codec, without socket or token."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from hsmd.errors import Conflict, HsmdError, NotFound
from hsmd.protocol import messages
from hsmd.protocol.messages import Request
from hsmd.transparency.chain import Follower
from hsmd.transparency.lines import event_tail, outcome_tail, record_line, tail

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
PEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


class FakeControl:
    """Answers like a daemon; `asked` is the list of requests, `fail_with` is raised for the next one."""

    def __init__(self) -> None:
        self.keys: dict[str, messages.KeyInfo] = {}
        self.clients: dict[str, messages.ClientInfo] = {}
        self.grants: dict[tuple[str, str], set[str]] = {}
        self.permits: dict[str, messages.NodePermit] = {}
        self.limits: dict[tuple[str, str, str], messages.GrantLimit] = {}
        self.past: list[messages.PastKey] = []
        self.chains: dict[str, str] = {}
        self.lines: list[bytes] = []
        self.candidates: list[messages.KeyCandidate] = []
        self.tokens: list[messages.TokenInfo] = []
        self.asked: list[Request] = []
        self.timeouts: list[float] = []
        self.fail_with: HsmdError | None = None
        self.page_size = 2
        self.role = "operator"
        self.uses = 100
        self.more_uses: list[messages.UseCount] = []
        self.worker_state = "ready"
        self.level = "well"
        self.audit_writable = True
        self.findings: list[messages.Finding] = []
        self._chain = Follower()

    # --- the interface of hsmd.client.Client ---

    def close(self) -> None:
        """Nothing to close."""

    def control(self, request: Request, *, timeout_s: float) -> Struct:
        decoded = messages.decode_request(messages.encode_request(request))
        self.asked.append(decoded)
        self.timeouts.append(timeout_s)
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        tag = str(type(decoded).__struct_config__.tag)
        answer = getattr(self, "on_" + tag.replace(".", "_").replace("-", "_"))(decoded)
        return messages.decode_result(messages.encode_result(answer), type(decoded).Result)

    # --- the log ---

    def record(self, tail: str) -> int:
        record = record_line(self._chain.size, self._chain.head, "2030-01-02T03:04:05.000000Z", tail)
        self._chain.follow(record)
        self.lines.append(record)
        return self._chain.size - 1

    def use(self, client: str, key: str, result: str | None = "performed") -> None:
        members = {"client": client, "key_name": key, "key": "01" * 32, "purpose": "tls13-server"}
        index = self.record(tail("attempt", **members, scheme="0403", asked="0" * 64))
        if result is not None:
            self.record(outcome_tail(index, result, "1" * 64))

    def event(self, name: str, client: str, **fields: str | int) -> None:
        self.record(event_tail(name, client, fields))

    # --- requests ---

    def on_health_read(self, _: Any) -> messages.Health:
        return messages.Health(self.level, self.findings)

    def on_whoami(self, _: Any) -> messages.Identity:
        return messages.Identity("alice", self.role, "SHA256:abc", "hsm-1")

    def on_status(self, _: Any) -> messages.DaemonStatus:
        workers = [
            messages.WorkerStatus(4711, self.worker_state, 0, 0, "signing"),
            messages.WorkerStatus(4712, "spare", 0, 0, "signing"),
            messages.WorkerStatus(4713, "ready", 0, 0, "control"),
        ]
        token = messages.TokenStatus("main", "hsmd", "s1", "ready", 0, workers, ["ecdsa"])
        counts = (len(self.keys), len(self.clients), len(self.grants))
        return messages.DaemonStatus(
            "0.1.0",
            NOW,
            False,
            1,
            [token],
            *counts,
            len(self.lines),
            self._chain.head,
            self.audit_writable,
            {"performed": 7},
            level=self.level,
            findings=self.findings,
        )

    def on_metrics_read(self, _: Any) -> messages.Metrics:
        self.uses += 30
        uses = [
            messages.UseCount("web1", "www", "tls13-server", "performed", self.uses, 30, 10.0),
            messages.UseCount("web1", "www", "tls13-server", "deadline", 2, 1, 10.0),
            messages.UseCount("mail1\x1b[2J", "mx\u202e", "tls12-server", "performed", 5, 0, 10.0),
            *self.more_uses,
        ]
        latency = messages.Latency("tls13-server", "p-256", [self.uses, 1, 0], 0.1)
        return messages.Metrics(self.on_status(None), uses, [0.001, 0.01], [latency])

    def on_key_generate(self, request: messages.KeyGenerate) -> messages.KeyInfo:
        if request.name in self.keys:
            raise Conflict(f"name: there is a key called {request.name!r} already")
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashlib.sha256(der).hexdigest()
        info = messages.KeyInfo(
            request.name, request.key_type, digest, der, request.purposes, request.token or "main", NOW
        )
        self.keys[request.name] = info
        return info

    def on_key_adopt(self, request: messages.KeyAdopt) -> messages.KeyInfo:
        return self.on_key_generate(
            messages.KeyGenerate(request.name, "p-256", request.purposes, request.token)
        )

    def on_key_candidates(self, request: messages.KeyCandidates) -> messages.KeyCandidateList:
        return messages.KeyCandidateList("main", self.candidates)

    def on_token_list(self, request: messages.TokenList) -> messages.TokenInfoList:
        return messages.TokenInfoList(self.tokens)

    def on_key_list(self, request: messages.KeyList) -> messages.KeyPage:
        names = [name for name in sorted(self.keys) if name > request.after]
        return messages.KeyPage(
            [self.keys[name] for name in names[: self.page_size]], len(names) > self.page_size
        )

    def on_key_show(self, request: messages.KeyShow) -> messages.KeyInfo:
        if request.name not in self.keys:
            raise NotFound(f"there is no key {request.name!r}")
        return self.keys[request.name]

    def on_audit_about(self, request: messages.AuditAbout) -> messages.AuditLines:
        """The records that name web1, two at a time; one of the first ones is away."""
        first = min(request.first, len(self.lines))
        following = min(first + 2, len(self.lines))
        lines = [line.decode() for line in self.lines[first:following] if b'"web1"' in line]
        away = [messages.AuditRange(1, 3)] if first == 0 else []
        return messages.AuditLines(lines, following, len(self.lines), away, undecided=len(away))

    def on_cert_served(self, request: messages.CertificateServed) -> messages.ServedByPage:
        return messages.ServedByPage("", [], False)

    def on_key_history(self, request: messages.KeyHistory) -> messages.KeyHistoryPage:
        found = [key for key in self.past if key.number > request.after]
        return messages.KeyHistoryPage(found[: self.page_size], len(found) > self.page_size)

    def on_key_destroy(self, request: messages.KeyDestroy) -> messages.Done:
        self.on_key_show(messages.KeyShow(request.name))
        del self.keys[request.name]
        return messages.Done()

    def on_key_csr(self, request: messages.KeyRequest) -> messages.PemDocument:
        return messages.PemDocument(PEM.replace("CERTIFICATE", "CERTIFICATE REQUEST"))

    def on_cert_import(self, request: messages.CertificateImport) -> messages.KeyInfo:
        self.chains[request.key] = request.chain
        return self.on_key_show(messages.KeyShow(request.key))

    def on_cert_self_signed(self, request: messages.CertificateSelfSigned) -> messages.PemDocument:
        self.chains[request.key] = PEM
        return messages.PemDocument(PEM)

    def on_cert_export(self, request: messages.CertificateExport) -> messages.PemDocument:
        if request.key not in self.chains:
            raise NotFound(f"key {request.key!r} has no certificate")
        return messages.PemDocument(self.chains[request.key])

    # --- authorities ---

    def authority(self) -> messages.AuthorityInfo:
        return messages.AuthorityInfo(
            "root", "CN=root", "ab" * 32, "main", "p-256", messages.AuthorityLimits(["server"], ["example.com"]),
            "cd" * 32, "main", [], 604_800, 1, NOW, NOW,
        )  # fmt: skip

    def certificate(self) -> messages.IssuedInfo:
        return messages.IssuedInfo(1, "1f", "server", "", ["a.example"], "ef" * 32, "www", NOW, NOW, True)

    def on_ca_init(self, request: messages.CaInit) -> messages.AuthorityMade:
        return messages.AuthorityMade(self.authority(), "" if request.outside else PEM, PEM * request.outside)

    def on_ca_issue(self, request: messages.CaIssue) -> messages.IssuedCertificate:
        return messages.IssuedCertificate(self.certificate(), PEM)

    def on_ca_renew(self, request: messages.CaRenew) -> messages.IssuedCertificate:
        return messages.IssuedCertificate(self.certificate(), PEM)

    def on_ca_revoke(self, request: messages.CaRevoke) -> messages.CertificateRevoked:
        return messages.CertificateRevoked(True, PEM)

    def on_ca_crl(self, request: messages.CaCrl) -> messages.PemDocument:
        return messages.PemDocument(PEM)

    def on_ca_show(self, request: messages.CaShow) -> messages.AuthorityShown:
        return messages.AuthorityShown(self.authority(), PEM, PEM)

    def on_ca_list(self, request: messages.CaList) -> messages.AuthorityPage:
        return messages.AuthorityPage([self.authority()] if not request.after else [], False)

    def on_ca_certificates(self, request: messages.CaCertificates) -> messages.IssuedPage:
        return messages.IssuedPage([self.certificate()] if not request.after else [], False)

    def on_ca_allow(self, request: messages.CaAllow) -> messages.Done:
        before = self.permits.get(request.client)
        names = request.common_name, request.dns_names, request.ip_addresses, request.emails
        permit = messages.NodePermit(request.client, request.profile, *names, request.term_s, NOW, 2, NOW)
        self.permits[request.client] = permit
        return messages.Done(before != permit)

    def on_ca_disallow(self, request: messages.CaDisallow) -> messages.Done:
        return messages.Done(self.permits.pop(request.client, None) is not None)

    def on_ca_allowed(self, request: messages.CaAllowed) -> messages.NodePermitPage:
        rest = [each for name, each in sorted(self.permits.items()) if name > request.after]
        return messages.NodePermitPage(rest[:1], len(rest) > 1)

    def on_client_add(self, request: messages.ClientAdd) -> messages.ClientInfo:
        info = self.clients.setdefault(
            request.name, messages.ClientInfo(request.name, request.role, [], NOW, request.role_set)
        )
        info.fingerprints += [f"SHA256:{len(info.fingerprints)}"] if request.public_key else []
        return info

    def on_client_list(self, request: messages.ClientList) -> messages.ClientPage:
        names = [name for name in sorted(self.clients) if name > request.after]
        page = [self.clients[name] for name in names[: self.page_size]]
        return messages.ClientPage(page, len(names) > self.page_size)

    def on_client_remove(self, request: messages.ClientRemove) -> messages.Done:
        if self.clients.pop(request.name, None) is None:
            raise NotFound(f"there is no client {request.name!r}")
        return messages.Done()

    def on_client_role_add(self, request: messages.ClientRoleAdd) -> messages.Done:
        held = self.clients[request.name].roles
        changed = request.role not in held
        held += [request.role] * changed
        return messages.Done(changed)

    def on_client_role_remove(self, request: messages.ClientRoleRemove) -> messages.Done:
        held = self.clients[request.name].roles
        changed = request.role in held
        self.clients[request.name].roles = [role for role in held if role != request.role]
        return messages.Done(changed)

    def on_client_trust_ca(self, request: messages.ClientTrustCa) -> messages.Done:
        return messages.Done()

    def on_grant_add(self, request: messages.GrantAdd) -> messages.GrantInfo:
        held = self.grants.setdefault((request.client, request.key), set())
        held.update(request.purposes)
        if request.not_after or request.max_uses or request.names:
            for purpose in request.purposes:
                self.limits[request.client, request.key, purpose] = messages.GrantLimit(
                    7,
                    purpose,
                    2,
                    request.not_after,
                    request.max_uses,
                    8,
                    False,
                    request.request,
                    request.names,
                )
        return self._grant_info(request.client, request.key)

    def _grant_info(self, client: str, key: str) -> messages.GrantInfo:
        limits = [limit for pair, limit in self.limits.items() if pair[:2] == (client, key)]
        return messages.GrantInfo(client, key, sorted(self.grants[client, key]), limits)

    def on_grant_list(self, request: messages.GrantList) -> messages.GrantPage:
        after = tuple(request.after.split("/")) if request.after else ("", "")
        pairs = [
            pair
            for pair in sorted(self.grants)
            if pair > after and request.client in ("", pair[0]) and request.key in ("", pair[1])
        ]
        page = [self._grant_info(*pair) for pair in pairs[: self.page_size]]
        return messages.GrantPage(page, len(pairs) > self.page_size)

    def on_grant_remove(self, request: messages.GrantRemove) -> messages.Done:
        return messages.Done(self.grants.pop((request.client, request.key), None) is not None)

    def on_grant_explain(self, request: messages.GrantExplain) -> messages.Explanation:
        allowed = request.purpose in self.grants.get((request.client, request.key), set())
        limit = self.limits.get((request.client, request.key, request.purpose))
        return messages.Explanation(allowed, "grant" if allowed else "no grant on this key", limit)

    def on_audit_read(self, request: messages.AuditRead) -> messages.AuditPage:
        first = request.first if request.first >= 0 else max(0, len(self.lines) + request.first)
        limit = min(request.limit, self.page_size)
        return messages.AuditPage(
            first, [each.decode() for each in self.lines[first : first + limit]], len(self.lines)
        )
