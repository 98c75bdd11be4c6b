"""The connection of one command to one daemon: profile, options, the client, and the deadline of each request."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

from msgspec import Struct

from hsmd.cli.base import profile as profiles
from hsmd.cli.base.errors import CommandError, Exit
from hsmd.cli.base.output import Output
from hsmd.errors import ConfigurationError, HsmdError, ProtocolError
from hsmd.protocol.messages import Request

if TYPE_CHECKING:
    from hsmd.client import Client, Endpoint
    from hsmd.client.witness import Witness

DEFAULT_TIMEOUT_S = 15.0
SLOW_TIMEOUT_S = 60.0
"""For requests that make keys: an RSA-4096 key takes a slow token most of a minute."""

LOG_REFUSED_ADVICE = (
    "find out why: an audit log never shrinks or changes. After a restore from backup run `hsmd audit discontinuity`, "
    "or give up what was seen by removing that file"
)

R = TypeVar("R", bound=Struct)


class Session:
    """What a command that talks to a daemon works with; connects with the first request.

    A daemon whose audit log is not the one seen before is refused, unless `witnessed` is set to False first.
    """

    def __init__(
        self,
        output: Output,
        *,
        profile: Path | None = None,
        daemon: str | None = None,
        user: str | None = None,
        identity: Path | None = None,
        host_key: list[str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.output = output
        self._profile_file = profile
        self._given = {
            "daemon": daemon,
            "user": user,
            "identity": identity,
            "host_keys": tuple(host_key or ()),
        }
        self._timeout_s = timeout
        self.witnessed = True
        self._client: Client | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()

    def ask(self, request: Request, answer: type[R], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> R:
        """The daemon's answer to `request`. Raises HsmdError or CommandError."""
        if self._client is None:
            witness = self._witness() if self.witnessed else None
            self._client = connect(self.profile(), witness)
        return cast("R", self._client.control(request, timeout_s=self._timeout_s or timeout_s))

    def _witness(self) -> Witness | None:
        """What this operator has seen of the log of the daemon in his profile; a break that he declared is no surprise.

        None for a daemon that only the options name: nothing says that the one of tomorrow at this address is the same.
        """
        from hsmd.cli.base.ssh_keys import operator_keys
        from hsmd.client.witness import Witness

        profile = self.profile()
        if profile.daemon != self._stored().daemon:
            return None
        place = self._file.absolute().parent / "witness"
        return Witness(place, operator_keys(profile.identity))

    def profile(self) -> profiles.Profile:
        """Profile file and options together. Raises CommandError if that does not say whom to ask, and as whom."""
        merged = self._stored().merged(**self._given)
        if missing := merged.missing():
            raise CommandError(
                f"nothing says which daemon to ask: {', '.join(missing)} not given and {self._file} does not say",
                "run `hsmd init` on the key host, or give the options",
                Exit.USAGE,
            )
        return merged

    @property
    def _file(self) -> Path:
        return self._profile_file or profiles.default_path()

    def _stored(self) -> profiles.Profile:
        """What the profile file says; nothing, if there is none where one need not be."""
        if self._profile_file is None and not self._file.exists():
            return profiles.Profile()
        return profiles.load(self._file)


def connect(profile: profiles.Profile, witness: Witness | None = None) -> Client:
    """A connected client.

    Raises CommandError if the daemon cannot be reached, has another host key than the pinned one, or shows an audit log that
    does not continue the one that `witness` has seen.
    """
    from hsmd.client import Client
    from hsmd.client.witness import LogRefused

    try:
        daemon = endpoint(profile)
        examine = partial(witness.examine, daemon.address) if witness else None
        return Client.connect(daemon, examine=examine)
    except LogRefused as error:
        raise CommandError(error.text, LOG_REFUSED_ADVICE, Exit.PROBLEMS) from error
    except ConfigurationError as error:
        raise CommandError(
            "; ".join(error.faults), "correct the profile, or the option", Exit.USAGE
        ) from error
    except ProtocolError as error:
        what = (
            f"{profile.daemon} is not the daemon that is pinned, or does not speak our protocol: {error.text}"
        )
        raise CommandError(
            what, "compare the host key with the one `hsmd init` printed; if it has changed, ask why"
        ) from error
    except HsmdError as error:
        what = f"cannot connect to {profile.daemon} as {profile.user}: {error.text}"
        raise CommandError(
            what, "check that the daemon runs, its address, and that it knows your key", Exit.UNREACHABLE
        ) from error


def endpoint(profile: profiles.Profile) -> Endpoint:
    """The client's description of the daemon in a complete profile. Raises BadRequest or ConfigurationError."""
    from hsmd.client import Endpoint, parse_address

    host, port = parse_address(profile.daemon)
    return Endpoint(host, port, profile.host_keys, profile.user, Path(profile.identity or ""))
