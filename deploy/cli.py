"""The commands of `daybook deploy`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic_settings import SettingsConfigDict

from deploy.access.passwords import read as read_passwords
from deploy.definitions import apply as apply_definitions
from deploy.definitions import apply_access, plan, plan_access
from deploy.differences import Applicable, Difference
from deploy.errors import Refused, Unreachable
from schemas.connections import Connections, EnvironmentSettings, NotConfigured

_DRIFT_OR_REFUSED: Final = 1
_UNREACHABLE: Final = 4

app = typer.Typer(
    help="Topics, schemas, search indices and who may what: deploy them, or show how they differ.",
    no_args_is_help=True,
)


@app.callback()
def deploy() -> None:
    """Topics, schemas, search indices and who may what: deploy them, or show how they differ."""


_Check = Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if something differs.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_Passwords = Annotated[
    Path | None,
    typer.Option(
        help="A file with lines principal=password. Without it: what DAYBOOK_DEPLOY_PASSWORDS says.", show_default=False
    ),
]


class DeploySettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_DEPLOY_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_DEPLOY_")

    passwords: Path | None = None
    """The file with the principals' passwords."""


@app.command()
def apply(
    check: _Check = False,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="Partitions of each topic, fixed once made. Without it: as they are, or 6."),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, help="Replicas of each partition. Without it: 3, or as many as brokers."),
    ] = None,
    passwords: _Passwords = None,
    as_json: _AsJson = False,
) -> None:
    """Create topics, register schemas and put index templates, where they differ from what Daybook needs.

    With a file of passwords, also what `daybook deploy access` does.

    Running it again changes nothing. Settings that Daybook does not care about, other topics, other subjects and other
    indices are left alone. A partition count cannot change: if it differs, nothing is done. Without
    DAYBOOK_ELASTICSEARCH_URL the search indices are left out.

    Exit codes: 0 done, or nothing to do; 1 something differs (--check) or was refused; 2 wrong usage; 4 Kafka, the
    registry or Elasticsearch cannot be reached, or is not configured.

    Examples:

        daybook deploy apply

        daybook deploy apply --partitions 24 --replication 3

        daybook deploy apply --check --json
    """
    told = _Told(as_json)
    with _errors_told():
        connections = Connections.from_environment()
        if connections.elasticsearch_url is None:
            typer.echo("DAYBOOK_ELASTICSEARCH_URL is not set: the search indices are left out", err=True)
        known = _passwords(passwords)
        if known is None and connections.kafka_security_protocol.startswith("SASL"):
            typer.echo("DAYBOOK_DEPLOY_PASSWORDS is not set: credentials and access rights are left alone", err=True)
        if check:
            differences = plan(connections, partitions=partitions, replication=replication, passwords=known)
        else:
            differences = apply_definitions(
                connections, partitions=partitions, replication=replication, passwords=known, applied=told.applied
            )
    _sum_up(differences, told, check)


@app.command()
def access(check: _Check = False, passwords: _Passwords = None, as_json: _AsJson = False) -> None:
    """Give each principal its password and its rights in Kafka, where they differ from what Daybook needs.

    It needs Kafka alone, so that it can be done before the registry starts, which has to log in there itself. To change
    a password, change the file and run this again. Rights of other principals, and to other ledgers, are left alone.

    Exit codes: 0 done, or nothing to do; 1 something differs (--check) or was refused; 2 wrong usage; 4 Kafka cannot be
    reached, or it is not configured.

    Examples:

        daybook deploy access --passwords passwords

        daybook deploy access --passwords passwords --check
    """
    told = _Told(as_json)
    with _errors_told():
        connections = Connections.from_environment()
        known = _passwords(passwords)
        if known is None:
            raise NotConfigured("whose passwords? Give --passwords, or set DAYBOOK_DEPLOY_PASSWORDS to the file's name")
        if check:
            differences = plan_access(connections, known)
        else:
            differences = apply_access(connections, known, applied=told.applied)
    _sum_up(differences, told, check)


class _Told:
    """What was put right, which is told at once, unless JSON is wanted."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.done: list[Applicable] = []

    def applied(self, difference: Applicable) -> None:
        self.done.append(difference)
        if not self.as_json:
            typer.echo(f"{difference.problem}: {difference.remedy}")


def _passwords(given: Path | None) -> dict[str, str] | None:
    path = given or DeploySettings.from_environment().passwords
    return None if path is None else read_passwords(path)


def _sum_up(differences: Sequence[Difference], told: _Told, check: bool) -> None:
    """Tell what is left. Exits with 1 if that is to be checked."""
    done, as_json = told.done, told.as_json
    left = [difference for difference in differences if difference not in done]
    if as_json:
        typer.echo(json.dumps({"differences": [_as_json(one, done) for one in differences], "left": len(left)}))
    else:
        for difference in left:
            typer.echo(difference.problem)
        typer.echo(_summary(len(done), len(left)))
    if check and left:
        raise typer.Exit(_DRIFT_OR_REFUSED)


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_DRIFT_OR_REFUSED) from error
    except (Unreachable, NotConfigured) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(_UNREACHABLE) from error


def _summary(done: int, left: int) -> str:
    match done, left:
        case 0, 0:
            return "nothing to do: all is as it should be"
        case 0, _:
            return f"{left} differ"
        case _, 0:
            return f"{done} put right"
        case _:
            return f"{done} put right, {left} left"


def _as_json(difference: Difference, done: Sequence[Applicable]) -> dict[str, object]:
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(difference).__name__).lower()
    return {"kind": kind, "problem": difference.problem, "applied": difference in done}


if __name__ == "__main__":
    app()
