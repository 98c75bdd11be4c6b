"""The life of keys in the vault as a small model: plain numbers and sets, no rows, and nothing of hsmd's own judgement."""

from __future__ import annotations

from dataclasses import dataclass, field

DAY = 86_400
LONG = 60 * DAY
NEVER = 10**12
"""Later than every time that occurs; stands for no end."""


class Refused(Exception):
    """What the store must refuse; the argument is the name of its error."""


Told = tuple[str, str, int, str]
"""Kind of an event, record, version, and the threshold or whether a request was granted."""


@dataclass
class Version:
    """A version of a record. Times are seconds."""

    key: str
    sealed_to: int
    """Number of the management key."""
    not_before: int
    not_after: int
    max_uses: int
    deny: bool
    standing: str = "live"
    compromised: bool = False
    suspended: bool = False
    held: bool = False
    ended: int | None = None
    requests: int = 0
    released: int = 0
    number: int = 1
    told_over: int | None = None
    coming: list[tuple[int, str]] = field(default_factory=list)
    """Thresholds that are not passed."""

    def place(self, now: int) -> None:
        """Place the thresholds of a term that is stated now."""
        self.coming = []
        if self.not_after == NEVER:
            return
        length = self.not_after - max(self.not_before, now)
        if length >= LONG:
            before = [(30 * DAY, "30-days"), (7 * DAY, "7-days"), (DAY, "1-day")]
        elif length > 0:
            before = [(length / 3, "third"), (length / 10, "tenth")]
        else:
            before = []
        placed = [(self.not_after - left, name) for left, name in [*before, (0, "end")]]
        self.coming = [each for each in placed if each[0] > now] or [(self.not_after, "end")]


@dataclass
class Vault:
    """All of one owner."""

    now: int
    records: dict[str, list[Version]] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    """State of each management key by its number."""
    held: set[int] = field(default_factory=set)
    """The management keys that are held after a restore."""
    events: list[Told] = field(default_factory=list)

    def everything(self) -> list[tuple[str, int, Version]]:
        return [(name, n, v) for name, those in sorted(self.records.items()) for n, v in enumerate(those, 1)]

    def active(self) -> int:
        return next((number for number, state in self.keys.items() if state == "active"), 0)

    def find(self, record: str, version: int) -> Version:
        those = self.records.get(record, [])
        if not 0 < version <= len(those):
            raise Refused("NotFound")
        return those[version - 1]

    def tell(self, kind: str, record: str, version: int, more: str = "") -> None:
        self.events.append((kind, record, version, more))

    # --- deposits and statements ---

    def put(self, record: str, key: str, **limits: int | bool) -> None:
        if not self.active():
            raise Refused("Conflict")
        for _, _, other in self.everything():
            if other.key == key and (other.compromised or other.standing != "destroyed"):
                raise Refused("Conflict")
        made = Version(key, self.active(), **limits)  # type: ignore[arg-type]
        made.place(self.now)
        self.records.setdefault(record, []).append(made)

    def limit(self, record: str, version: int, number: int, **limits: int | bool) -> None:
        it = self.find(record, version)
        if it.standing != "live":
            raise Refused("Conflict")
        end = int(limits["not_after"])
        if it.ended is not None and it.not_after < end <= it.ended:
            raise Refused("BadRequest")
        if end != it.not_after:
            revived = it.ended is None or end > max(it.ended, self.now)
            it.not_before, it.not_after = int(limits["not_before"]), end
            it.coming = []
            if revived:
                it.ended = None
                it.place(self.now)
        it.not_before, it.max_uses, it.deny = (
            int(limits["not_before"]),
            int(limits["max_uses"]),
            bool(limits["deny"]),
        )
        it.held, it.number = False, number

    def revoke(self, record: str, version: int, number: int, *, compromised: bool) -> None:
        it = self.find(record, version)
        standing = "compromised" if compromised else "revoked"
        if it.standing == "destroyed" or (it.standing == "compromised" and not compromised):
            raise Refused("BadRequest")
        if it.standing != standing:
            self.tell(standing, record, version)
        it.standing, it.compromised = standing, it.compromised or compromised
        it.coming, it.number = [], number

    def destroy(self, record: str, version: int, number: int) -> None:
        it = self.find(record, version)
        if it.standing == "destroyed":
            raise Refused("Conflict")
        it.standing, it.coming, it.number = "destroyed", [], number
        self.tell("destroyed", record, version)

    def suspend(self, record: str, version: int) -> None:
        it = self.find(record, version)
        if it.standing == "destroyed":
            raise Refused("Conflict")
        if not it.suspended:
            it.suspended = True
            self.tell("suspended", record, version)

    def resume(self, record: str, version: int) -> None:
        it = self.find(record, version)
        if it.suspended:
            it.suspended = False
            self.tell("resumed", record, version)

    # --- management keys ---

    def restart(self) -> None:
        for number, state in self.keys.items():
            if state in ("active", "replaced"):
                self.keys[number] = "lost"
        self.keys[len(self.keys) + 1] = "active"
        self.held = set()

    def replace(self) -> None:
        if not self.active():
            raise Refused("Conflict")
        self._retire()
        self.keys[self.active()] = "replaced"
        self.keys[len(self.keys) + 1] = "active"
        self.tell("replaced", "ann", self.active(), "begun")

    def finish(self) -> None:
        if "replaced" not in self.keys.values():
            raise Refused("Conflict")
        self._retire()

    def _retire(self) -> None:
        for number, state in self.keys.items():
            if state == "replaced":
                if any(
                    it.sealed_to == number and it.standing != "destroyed" for _, _, it in self.everything()
                ):
                    raise Refused("Conflict")
                self.keys[number] = "retired"
                self.tell("replaced", "ann", self.active(), "finished")

    def rewrap(self, record: str, version: int, number: int) -> None:
        it = self.find(record, version)
        it.sealed_to, it.number = self.active(), number

    # --- time and acquisitions ---

    def refusal(self, it: Version) -> str:
        """Why a version is not given out now; empty if it is."""
        if it.standing != "live":
            return "owner"
        if it.ended is not None or self.now >= it.not_after:
            return "expired"
        if self.keys[it.sealed_to] == "lost":
            return "lost-management-key"
        if it.held or it.sealed_to in self.held:
            return "restored"
        if it.suspended:
            return "suspended"
        if self.now < it.not_before:
            return "not-yet"
        return "limit" if it.deny and 0 < it.max_uses <= it.released else ""

    def get(self, record: str, version: int) -> str:
        it = self.find(record, version)
        version = version or len(self.records[record])
        why = self.refusal(it)
        beyond = 0 < it.max_uses <= it.released and why in ("", "limit")
        it.requests += 1
        it.released += not why
        if why == "expired" and it.ended is None:
            self._pass(record, version, it)
        if not why and it.released == it.max_uses:
            self.tell("exhausted", record, version)
        if beyond and it.told_over != it.max_uses:
            it.told_over = it.max_uses
            self.tell("over-use", record, version, str(not why))
        return why

    def announce(self) -> None:
        for record, version, it in self.everything():
            self._pass(record, version, it)

    def _pass(self, record: str, version: int, it: Version) -> None:
        passed = [name for at, name in it.coming if at <= self.now]
        if not passed:
            return
        it.coming = it.coming[len(passed) :]
        if passed[-1] == "end":
            it.ended = self.now
        self.tell("expired" if passed[-1] == "end" else "expiring", record, version, passed[-1])

    def usable(self, record: str, version: int) -> bool:
        """Whether a checker may rely on a version now."""
        it = self.find(record, version)
        within = not it.max_uses or it.released < it.max_uses + (not it.deny)
        return not self.refusal(it) and within and version == len(self.records[record])

    def restored(self) -> None:
        """What a restore does to what was backed up."""
        for _, _, it in self.everything():
            it.held = True
        self.held = {number for number, state in self.keys.items() if state in ("active", "replaced")}

    def confirm_again(self) -> None:
        if self.active() not in self.held:
            raise Refused("NotFound")
        self.held = set()
