"""``settle api-keys create|list|revoke|sign-in``: the keys by which services use the API, and people's links."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from cli import settings
from cli.errors import BadInputError
from cli.remote import ApiOption, WhyOption, ask, reason
from cli.settings import DataOption
from cli.text import say, say_json

app = typer.Typer(help="Create, list and revoke keys of the HTTP API.", no_args_is_help=True)

DAY_S = 86_400.0
PATH = "/v1/api-keys"


@app.command()
def create(
    caller: Annotated[str, typer.Argument(help="Whose key it is: a service, a team.", show_default=False)],
    role: Annotated[str, typer.Option(help="client, viewer, operator or admin.")] = "client",
    scope: Annotated[
        list[str] | None, typer.Option(help="A permission to which it is limited; repeat it. Default: the role's.")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="How long it is valid. Default: for ever.")] = None,
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Create a key, and print it, this once: only its hash is stored."""
    from api.access import complaint
    from api.credentials import create_key

    if (wrong := complaint(caller, role, scope or ())) is not None:
        raise BadInputError(wrong)
    expires_s = days * DAY_S if days else None
    if api is not None:
        wanted = {"caller": caller, "role": role, "scopes": scope or [], "expires_s": expires_s}
        say(ask(api, "POST", PATH, wanted | {"reason": reason(why)})["key"])
    else:
        say(create_key(settings.dsn("api", data), caller, role, scope or (), expires_s))


@app.command(name="list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    api: ApiOption = None,
    data: DataOption = None,
) -> None:
    """List the keys, without their secrets."""
    import msgspec

    from api.credentials import ApiKey, list_keys
    from cli.screen import Grid, Screen

    if api is not None:
        found = msgspec.convert(ask(api, "GET", PATH)["keys"], list[ApiKey])
    else:
        found = list_keys(settings.dsn("api", data))
    if as_json:
        say_json(msgspec.to_builtins(found))
        return
    table = Grid()
    for column in ("key", "caller", "role", "scopes", "created", "valid until"):
        table.add_column(column)
    for key in found:
        until = f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "without end"
        table.add_row(
            key.key_id,
            key.caller,
            key.role,
            ", ".join(key.scopes) or "all",
            f"{key.created_at:%Y-%m-%d %H:%M}",
            f"revoked {key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else until,
        )
    Screen().print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's ID, as `list` shows it.", show_default=False)],
    api: ApiOption = None,
    why: WhyOption = None,
    data: DataOption = None,
) -> None:
    """Revoke a key: within some seconds every instance of the API refuses it."""
    from api.credentials import PREFIX, revoke_key

    if key.startswith(f"{PREFIX}_"):  # pasted as a whole: its secret is not to be told on
        key = key.split("_")[1]
    if api is not None:
        ask(api, "POST", f"{PATH}/{quote(key, safe='')}/revoke", {"reason": reason(why)})
    elif not revoke_key(settings.dsn("api", data), key):
        raise BadInputError(f"there is no key {key!r} that is valid")
    say(f"{key} is revoked")


@app.command(name="sign-in")
def sign_in(
    name: Annotated[str, typer.Argument(help="Who signs in.", show_default=False)],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    url: Annotated[
        str | None,
        typer.Option(help="Where browsers find the API.", show_default="SETTLE_API_URL, or your stack's"),
    ] = None,
    data: DataOption = None,
) -> None:
    """Print a link by which one person gets into the console, once, within 15 minutes."""
    from api.access import CLIENT, complaint
    from api.credentials import SIGN_IN, offer_sign_in

    if (wrong := complaint(name, role)) is not None:
        raise BadInputError(wrong)
    if role == CLIENT:
        raise BadInputError("a client is a program: make it a key, `settle api-keys create`")
    where = (url or settings.api_url(data)).rstrip("/")
    say(f"{where}{SIGN_IN}?token={offer_sign_in(settings.dsn('api', data), name, role)}")
