"""`--stack`: what would fail every test is said once, before any runs, with what to do about it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.connections import Connections
from tests.processes import connections_to, environment
from tests.readers import database_of, in_database
from tests.stacks.images import SERVERS, NoImage, images, images_of

TESTS = Path(__file__).parents[1]
NOBODY_LISTENS = "127.0.0.1:1"
ADDRESSES = {
    "DAYBOOK_KAFKA_BOOTSTRAP": NOBODY_LISTENS,
    "DAYBOOK_REGISTRY_URL": f"http://{NOBODY_LISTENS}",
    "DAYBOOK_REDIS_URL": f"redis://{NOBODY_LISTENS}/0",
    "DAYBOOK_ELASTICSEARCH_URL": f"http://{NOBODY_LISTENS}",
}


def collect(*options: str, **variables: str) -> tuple[int, str]:
    """Have pytest collect a test file with these options: its exit status, and what it printed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("DAYBOOK_", "DOCKER_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *options, __file__],
        env=ours | variables,
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def dotenv(folder: Path, variables: dict[str, str]) -> str:
    path = folder / "env"
    path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    return str(path)


def test_an_unknown_stack_is_wrong_usage() -> None:
    status, said = collect("--stack=clouds")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "clouds" in said
    assert all(kind in said for kind in ("local", "containers", "compose"))


def test_without_an_engine_containers_are_refused_before_any_test(tmp_path: Path) -> None:
    status, said = collect("--stack=containers", DOCKER_HOST=f"unix://{tmp_path}/no.sock")
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "needs a Docker engine, and none answers" in said
    assert "--stack=local" in said
    assert "Traceback" not in said


def test_a_compose_stack_that_was_never_up_is_refused(tmp_path: Path) -> None:
    status, said = collect("--stack=compose", DAYBOOK_TEST_ENV=str(tmp_path / "env"))
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"there is no file {tmp_path}/env" in said
    assert "docker compose up --wait" in said


def test_an_env_file_that_lacks_an_address_is_refused(tmp_path: Path) -> None:
    some = {name: value for name, value in ADDRESSES.items() if name != "DAYBOOK_REDIS_URL"}
    status, said = collect("--stack=compose", DAYBOOK_TEST_ENV=dotenv(tmp_path, some))
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "does not set DAYBOOK_REDIS_URL" in said


def test_a_compose_stack_that_is_down_is_refused_without_its_passwords(tmp_path: Path) -> None:
    path = dotenv(tmp_path, ADDRESSES | {"DAYBOOK_KAFKA_SASL_PASSWORD": "geheim"})
    status, said = collect("--stack=compose", DAYBOOK_TEST_ENV=path)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"no Kafka at {NOBODY_LISTENS}, where {path} has it" in said
    assert "docker compose up --wait" in said
    assert "geheim" not in said


@pytest.mark.parametrize(
    ("options", "variables", "why"),
    [
        (["--stack=compose"], {"DAYBOOK_TEST_STACK": ".test-stack"}, "DAYBOOK_TEST_STACK names a local stack"),
        (["--redis-image=redis:7.0-bookworm"], {}, "--redis-image is for --stack=containers"),
    ],
)
def test_what_contradicts_itself_is_refused(options: list[str], variables: dict[str, str], why: str) -> None:
    status, said = collect(*options, **variables)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert why in said


def test_the_local_stack_is_the_default() -> None:
    status, said = collect()
    assert (status, "tests collected" in said) == (pytest.ExitCode.OK, True)


def test_images_are_those_of_the_compose_file() -> None:
    found = images()
    assert tuple(found) == SERVERS
    assert all(":" in image for image in found.values())


COMPOSE = """\
x-base: &base
  image: base:1
services:
  # The log.
  kafka: &kafka
    image: "${KAFKA_IMAGE:-apache/kafka:4.3.1}"  # pinned
    depends_on:
      - secrets
  registry:
    image: some/registry:${REGISTRY_VERSION:-3}
  elasticsearch:
    <<: *base
    image: search:9
  redis:
    image: '${REDIS_IMAGE:-valkey/valkey:9.1}'
volumes:
  redis:
"""


def test_variables_of_the_compose_file_are_filled_in_from_the_environment() -> None:
    assert images_of(COMPOSE, {"REDIS_IMAGE": "redis:7", "REGISTRY_VERSION": ""}) == {
        "kafka": "apache/kafka:4.3.1",
        "registry": "some/registry:3",
        "elasticsearch": "search:9",
        "redis": "redis:7",
    }


@pytest.mark.parametrize("line", ["    image: search:9\n", "  elasticsearch:\n    <<: *base\n    image: search:9\n"])
def test_a_server_without_an_image_is_named(line: str) -> None:
    with pytest.raises(NoImage, match="the service elasticsearch needs a line"):
        images_of(COMPOSE.replace(line, ""), {})


def test_a_variable_without_a_default_is_not_guessed() -> None:
    with pytest.raises(NoImage, match=r"the service registry .* have defaults"):
        images_of(COMPOSE.replace(":-3}", "}"), {"REGISTRY_VERSION": "3"})


def test_connections_are_the_given_ones_and_go_on_to_processes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ADDRESSES | {
        "DAYBOOK_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "DAYBOOK_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "DAYBOOK_KAFKA_SASL_USERNAME": "admin",
        "DAYBOOK_KAFKA_SASL_PASSWORD": "one",
        "DAYBOOK_KAFKA_SSL_CA": "ca.crt",
        "DAYBOOK_REGISTRY_TOKEN": "two",
        "DAYBOOK_REDIS_URL": "rediss://admin:three@127.0.0.1:1/0?socket_timeout=5",
        "DAYBOOK_ELASTICSEARCH_USERNAME": "admin",
        "DAYBOOK_ELASTICSEARCH_PASSWORD": "four",
        "DAYBOOK_NAMESPACE": "t1",
    }
    for name in [name for name in os.environ if name.startswith("DAYBOOK_")]:
        monkeypatch.delenv(name)
    # A developer's own settings, which are for other servers.
    monkeypatch.setenv("DAYBOOK_ELASTICSEARCH_API_KEY", "another's")
    monkeypatch.setenv("DAYBOOK_KAFKA_SASL_USERNAME", "another")
    monkeypatch.setenv("DAYBOOK_LOG_LEVEL", "DEBUG")

    connections = connections_to(given | {"DAYBOOK_ACTIVITY_URL": "http://127.0.0.1:1"})
    passed_on = {name: value for name, value in environment(connections).items() if name.startswith("DAYBOOK_")}

    assert connections.redis_url == SecretStr(given["DAYBOOK_REDIS_URL"])
    assert connections.elasticsearch_api_key is None
    assert passed_on == given | {"DAYBOOK_ENV_FILE": os.devnull, "DAYBOOK_LOG_LEVEL": "DEBUG"}
    assert connections_to(passed_on) == connections
    assert set(given) <= {f"DAYBOOK_{field.upper()}" for field in Connections.model_fields}


def test_another_database_of_the_same_redis() -> None:
    url = in_database("rediss://ada:p%40ss@host:1/0?ssl_ca_certs=ca.crt", 7)
    assert url == "rediss://ada:p%40ss@host:1/7?ssl_ca_certs=ca.crt"
    assert database_of(url) == 7
