"""`hsmd grant`: the keys and purposes that clients may use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from msgspec.structs import replace

from hsmd.cli.base import name_patterns, server_purposes
from hsmd.cli.base.commands import command, group
from hsmd.cli.base.connection import Session
from hsmd.cli.base.errors import CheckFailed, CommandError
from hsmd.cli.base.names import ClientName, KeyName, not_empty
from hsmd.cli.base.output import note, table, when
from hsmd.cli.base.paging import grants_of, keys_of
from hsmd.cli.base.times import moment
from hsmd.errors import BadRequest, Conflict, HsmdError, NotFound
from hsmd.protocol.messages import (
    Done,
    Explanation,
    GrantAdd,
    GrantExplain,
    GrantInfo,
    GrantLimit,
    GrantRemove,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")
Keys = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY...",
        help="Names of keys, or patterns such as 'site-*'.",
        show_default=False,
        callback=name_patterns.check,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Do not ask whether the keys of a pattern are the right ones.")
]

app = group(
    """Grants: the keys that a client may use, and for which purposes.

    A grant names a client, a key and purposes. It cannot exceed the purposes of the key. It may end at a time, after a
    number of uses, or both."""
)


@command(
    app,
    "add",
    example="hsmd grant add web1 www --purpose tls13-server\n"
    "hsmd grant add web1 legacy --purpose tls12-rsa-premaster\n"
    "hsmd grant add web1 www --purpose tls13-server --not-after 8h --max-uses 10 --request TICKET-17\n"
    "hsmd grant add web1 www --allow-name '*.example.com' --not-after 2026-12-24\n"
    "hsmd grant add web1 'site-*' --yes",
)
def add(
    session: Session,
    client: ClientName,
    keys: Keys,
    purpose: Annotated[
        list[str],
        typer.Option(
            "--purpose",
            "-p",
            metavar="PURPOSE",
            help="Permitted purpose; may be repeated. Default: those of tls-server that the key has; with --allow-name "
            "x509-request.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  read only
    not_after: Annotated[
        str,
        typer.Option(
            "--not-after",
            metavar="TIME",
            help="When the grant ends: 8h or 30d from now on, 2026-12-24 (at 00:00 UTC), or 2026-12-24T18:30Z.",
            show_default=False,
            callback=not_empty,
        ),
    ] = "",
    max_uses: Annotated[
        int | None,
        typer.Option(
            "--max-uses",
            metavar="NUMBER",
            min=1,
            help="Total of uses for each purpose. Uses that were counted before count on.",
            show_default=False,
        ),
    ] = None,
    request: Annotated[
        str,
        typer.Option(
            "--request",
            metavar="TEXT",
            help="Note what caused a limited grant, such as a ticket.",
            show_default=False,
            callback=not_empty,
        ),
    ] = "",
    allow_name: Annotated[
        list[str],
        typer.Option(
            "--allow-name",
            metavar="NAME",
            help="Host name for which the client may request certificates with `hsmd key csr`; `*.` and a name for "
            "all with one label in place of the asterisk. May be repeated.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  read only
    yes: Yes = False,
) -> None:
    """Allow a client to use a key for these purposes, in addition to those already granted.

    To change the limits of a grant, add it again: limits that are not given stay as they are. Removing a grant and
    adding it again does not give uses back.

    A pattern stands for the keys that there are now; it grants nothing on keys that are made later. Each key gets a grant of
    its own, which is recorded on its own.
    """
    purposes = purpose or (["x509-request"] if allow_name else [])
    end = moment("--not-after", not_after, datetime.now(UTC)) if not_after else None
    wanted = GrantAdd(
        client=client,
        key=keys[0],
        purposes=purposes,
        not_after=end,
        max_uses=max_uses,
        request=request,
        names=allow_name,
    )
    if name_patterns.is_one(keys):
        if not purposes:
            wanted = replace(wanted, purposes=server_purposes.of_key(session, keys[0]))
        info = session.ask(wanted, GrantInfo)
        session.output.show(info, lambda: "\n".join(_sentences(info)))
        _say_limits_of(wanted.purposes)
        return
    known = {key.name: key for key in keys_of(session)}
    what = ", ".join(purposes) or "TLS servers"
    names = _selected(known, keys, f"grant {client}, for {what},", yes)
    wanted_of = {
        key: replace(wanted, key=key, purposes=purposes or server_purposes.of(known[key])) for key in names
    }
    made, failed = _for_each(names, lambda key: session.ask(wanted_of[key], GrantInfo))
    session.output.show(
        {"grants": made, "failed": failed},
        lambda: f"{client} may use {name_patterns.count(made)} for {what}.",
    )
    _say_limits_of([each for grant in made for each in wanted_of[grant.key].purposes])
    _complain(failed)


@command(app, "list", example="hsmd grant list\nhsmd grant list --client web1")
def list_grants(
    session: Session,
    client: Annotated[
        str, typer.Option("--client", metavar="NAME", help="Only grants of this client.", show_default=False)
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="NAME", help="Only grants for this key.", show_default=False)
    ] = "",
) -> None:
    """List all grants, or those of one client or for one key."""
    grants = grants_of(session, client, key)
    session.output.show({"grants": grants}, lambda: _table(grants))


@command(
    app,
    "remove",
    example="hsmd grant remove web1 www\nhsmd grant remove web1 www --purpose tls12-server\n"
    "hsmd grant remove web1 'site-*' --yes",
)
def remove(
    session: Session,
    client: ClientName,
    keys: Keys,
    purpose: Annotated[
        list[str],
        typer.Option(
            "--purpose", "-p", metavar="PURPOSE", help="Purpose to remove; may be repeated. Default: all."
        ),
    ] = [],  # noqa: B006  read only
    yes: Yes = False,
) -> None:
    """Remove purposes from a grant, or the whole grant. This also applies to open connections at once."""
    what = ", ".join(purpose) or "any purpose"
    if name_patterns.is_one(keys):
        key = keys[0]
        done = session.ask(GrantRemove(client=client, key=key, purposes=purpose), Done)
        text = (
            f"{client} may no longer use {key} for {what}."
            if done.changed
            else f"{client} has no such grant for {key}; nothing was changed."
        )
        session.output.show({"client": client, "key": key, "changed": done.changed}, lambda: text)
        return
    granted = [grant.key for grant in grants_of(session, client, "")]
    names = name_patterns.select(keys, granted)
    _agree(names, f"take from {client}, for {what},", yes, asked=any(map(name_patterns.is_pattern, keys)))
    removed, failed = _for_each(
        names, lambda key: session.ask(GrantRemove(client=client, key=key, purposes=purpose), Done)
    )
    session.output.show(
        {"client": client, "keys": [name for name in names if name not in failed], "failed": failed},
        lambda: f"{client} may no longer use {name_patterns.count(removed)} for {what}.",
    )
    _complain(failed)


@command(app, "explain", example="hsmd grant explain web1 www tls13-server")
def explain(
    session: Session,
    client: ClientName,
    key: KeyName,
    purpose: Annotated[
        str, typer.Argument(metavar="PURPOSE", help="The purpose to check.", show_default=False)
    ],
) -> None:
    """Show whether a client may use a key for a purpose, and which rule decides.

    A front end only receives "refused"; this command shows operators the reason. Exit code 4 means refused.
    """
    explanation = session.ask(GrantExplain(client=client, key=key, purpose=purpose), Explanation)
    verdict = "allowed" if explanation.allowed else "refused"
    rule, _, reason = explanation.rule.partition(": ")
    limit = explanation.limit
    limits = "" if limit is None else f"\nlimits: {_limits(limit)}"
    session.output.show(explanation, lambda: f"{verdict} ({rule}): {reason}{limits}")
    if not explanation.allowed:
        raise CheckFailed


def _selected(known: Collection[str], keys: Sequence[str], what: str, yes: bool) -> list[str]:
    """The names of the keys that were named on the command line, once the operator has agreed to what patterns stand for."""
    names = name_patterns.select(keys, list(known))
    _agree(names, what, yes, asked=any(map(name_patterns.is_pattern, keys)))
    return names


def _agree(names: Sequence[str], what: str, yes: bool, *, asked: bool) -> None:
    """Tell what will be done, and ask whether to do it if it was not spelled out. Raises CommandError."""
    name_patterns.plan(what, names)
    if yes or not asked:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            "a pattern needs a confirmation; nothing was changed", "check the list above, then add --yes"
        )
    if not typer.confirm("Do this?", err=True):
        raise CommandError("nothing was changed", "")


def _for_each(names: Sequence[str], ask: Callable[[str], T]) -> tuple[list[T], dict[str, str]]:
    """The answers for these keys, and by key the errors.

    An error that is about no key in particular, or an interruption, ends the work; then it is told how far it is.
    """
    done: list[T] = []
    failed: dict[str, str] = {}
    progress = name_patterns.Progress("done:", len(names))
    try:
        for name in names:
            try:
                done.append(ask(name))
            except (BadRequest, NotFound, Conflict) as error:
                failed[name] = error.text
            progress.step()
    except (HsmdError, CommandError, KeyboardInterrupt):
        note(
            f"stopped after {len(done):,} of {name_patterns.count(names)}; repeat the command for the others"
        )
        raise
    return done, failed


def _complain(failed: Mapping[str, str]) -> None:
    """Raises CommandError if there is anything to complain about."""
    for name, error in failed.items():
        note(f"{name}: {error}")
    if failed:
        raise CommandError(f"{name_patterns.count(failed)} left unchanged", "see the reasons above")


def _say_limits_of(purposes: Sequence[str]) -> None:
    """Say what signatures for these purposes, which were just granted, cannot exclude."""
    from hsmd.purposes import GROUPS

    granted = {*purposes} | {purpose.label for group in purposes for purpose in GROUPS.get(group, ())}
    weak = [label for label in ("tls12-server", "tls12-client") if label in granted]
    if not weak:
        return
    better = " and ".join(label.replace("tls12", "tls13") for label in weak)
    note(
        f"note: for {' and '.join(weak)} a dishonest front end chooses most of the signed bytes. The daemon refuses "
        "other signed formats that it recognises; it cannot recognise signatures over raw content, such as CMS. "
        f"Where all peers speak TLS 1.3, grant {better} alone."
    )


def _sentences(info: GrantInfo) -> list[str]:
    """What the client may do with the key, limited purposes each with its limits."""
    limited = {limit.purpose for limit in info.limits}
    free = [purpose for purpose in info.purposes if purpose not in limited]
    lines = [f"{info.client} may use {info.key} for {', '.join(free)}."] if free else []
    limits = [f"{limit.purpose}: {_limits(limit)}" for limit in info.limits]
    return lines + [f"{info.client} may use {info.key} for {each}." for each in limits]


def _table(grants: list[GrantInfo]) -> RenderableType:
    """A row for each grant, and one for each limited purpose; the column of limits only if there are any."""
    rows: list[tuple[str, str, str, str]] = []
    for grant in grants:
        limited = {limit.purpose for limit in grant.limits}
        free = [purpose for purpose in grant.purposes if purpose not in limited]
        if free or not limited:
            rows.append((grant.client, grant.key, ", ".join(free), ""))
        rows += [(grant.client, grant.key, limit.purpose, _limits(limit)) for limit in grant.limits]
    if any(row[3] for row in rows):
        return table(("CLIENT", "KEY", "PURPOSES", "LIMITS"), rows)
    return table(("CLIENT", "KEY", "PURPOSES"), [row[:3] for row in rows])


def _limits(limit: GrantLimit) -> str:
    """The limits of a grant, and what is left of it."""
    parts = []
    if limit.held:
        counted = f"{limit.uses} of {limit.max_uses} uses were counted"
        parts.append(f"no use before you state --max-uses anew, because a backup was restored ({counted})")
    elif limit.max_uses is not None:
        parts.append(f"{limit.left} of {limit.max_uses} uses left")
    else:
        parts.append(f"{limit.uses} used")
    if limit.unrecorded:
        parts.append(f"{limit.unrecorded} used by a daemon that is away, and in no log before it is back")
    if limit.not_after is not None:
        parts.append(f"until {when(limit.not_after)}")
    if limit.names:
        parts.append(f"names {', '.join(limit.names)}")
    if limit.request:
        parts.append(f"request {limit.request}")
    return "; ".join(parts)
