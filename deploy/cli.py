"""The commands of `daybook deploy`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final

import typer

from deploy.definitions import apply as apply_definitions
from deploy.definitions import plan
from deploy.differences import Applicable, Difference
from deploy.errors import Refused, Unreachable
from schemas.connections import Connections, NotConfigured

_DRIFT_OR_REFUSED: Final = 1
_UNREACHABLE: Final = 4

app = typer.Typer(
    help="Topics, schemas and search indices: deploy them, or show how they differ.", no_args_is_help=True
)


@app.callback()
def deploy() -> None:
    """Topics, schemas and search indices: deploy them, or show how they differ."""


@app.command()
def apply(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit with 1 if something differs.")] = False,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="Partitions of each topic, fixed once made. Without it: as they are, or 6."),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, help="Replicas of each partition. Without it: 3, or as many as brokers."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Create topics, register schemas and put index templates, where they differ from what Daybook needs.

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
    done: list[Applicable] = []

    def tell(difference: Applicable) -> None:
        done.append(difference)
        if not as_json:
            typer.echo(f"{difference.problem}: {difference.remedy}")

    with _errors_told():
        connections = Connections.from_environment()
        if connections.elasticsearch_url is None:
            typer.echo("DAYBOOK_ELASTICSEARCH_URL is not set: the search indices are left out", err=True)
        if check:
            differences = plan(connections, partitions=partitions, replication=replication)
        else:
            differences = apply_definitions(connections, partitions=partitions, replication=replication, applied=tell)
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
