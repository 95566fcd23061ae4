"""Where the servers are, read from the environment and from a dotenv file."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.connections import Connections, NotConfigured


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, and none of the variables of whoever runs the tests."""
    for name in Connections.model_fields:
        monkeypatch.delenv(f"DAYBOOK_{name.upper()}", raising=False)
    monkeypatch.delenv("DAYBOOK_ENV_FILE", raising=False)
    monkeypatch.chdir(tmp_path)


def write_env(path: Path, **variables: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"DAYBOOK_{name}={value}\n" for name, value in variables.items()), encoding="utf-8")


SERVERS = {"KAFKA_BOOTSTRAP": "127.0.0.1:9092", "REGISTRY_URL": "http://127.0.0.1:8081/apis/ccompat/v7"}


def test_the_file_that_the_local_stack_writes_is_found(tmp_path: Path) -> None:
    write_env(tmp_path / ".daybook" / "env", **SERVERS, REDIS_URL="redis://127.0.0.1:6379/0", SOMETHING_ELSE="1")
    connections = Connections.from_environment()
    assert connections.kafka_bootstrap == "127.0.0.1:9092"
    assert connections.registry_url == "http://127.0.0.1:8081/apis/ccompat/v7"
    assert connections.redis() == "redis://127.0.0.1:6379/0"


def test_another_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_env(tmp_path / ".daybook" / "env", **SERVERS)
    write_env(tmp_path / "other", **(SERVERS | {"KAFKA_BOOTSTRAP": "other:9092"}))
    monkeypatch.setenv("DAYBOOK_ENV_FILE", str(tmp_path / "other"))
    assert Connections.from_environment().kafka_bootstrap == "other:9092"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_env(tmp_path / ".daybook" / "env", **SERVERS)
    monkeypatch.setenv("DAYBOOK_KAFKA_BOOTSTRAP", "kafka:9092")
    assert Connections.from_environment().kafka_bootstrap == "kafka:9092"


def test_every_variable_that_is_missing_is_named() -> None:
    with pytest.raises(NotConfigured) as failed:
        Connections.from_environment()
    assert "DAYBOOK_KAFKA_BOOTSTRAP" in str(failed.value)
    assert "DAYBOOK_REGISTRY_URL" in str(failed.value)
    assert "daybook stack up" in str(failed.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_BOOTSTRAP", ""),
        ("KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("NAMESPACE", "eu.west"),
        ("NAMESPACE", "évry"),
    ],
)
def test_a_variable_that_is_wrong_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, said in (SERVERS | {name: value}).items():
        monkeypatch.setenv(f"DAYBOOK_{variable}", said)
    with pytest.raises(NotConfigured, match=f"DAYBOOK_{name}: "):
        Connections.from_environment()


def test_redis_is_asked_for_only_where_it_is_needed() -> None:
    connections = Connections(kafka_bootstrap="k:9092", registry_url="http://r")
    with pytest.raises(NotConfigured, match="DAYBOOK_REDIS_URL is not set"):
        connections.redis()


def test_passwords_are_not_shown() -> None:
    connections = Connections(
        kafka_bootstrap="k:9092",
        registry_url="http://r",
        redis_url=SecretStr("redis://:hunter2@r:6379/0"),
        kafka_sasl_password=SecretStr("hunter2"),
    )
    assert "hunter2" not in repr(connections)
    assert "hunter2" not in str(connections)


def test_the_namespace_stands_before_the_topics() -> None:
    connections = Connections(kafka_bootstrap="k:9092", registry_url="http://r", namespace="eu")
    assert connections.topics.commands == "eu.account.commands"


def test_kafka_gets_what_is_set_and_nothing_else() -> None:
    connections = Connections(kafka_bootstrap="k:9092", registry_url="http://r")
    assert connections.kafka(group_id="g", enable_auto_commit=False) == {
        "bootstrap.servers": "k:9092",
        "security.protocol": "PLAINTEXT",
        "group.id": "g",
        "enable.auto.commit": False,
    }


def test_kafka_gets_its_security() -> None:
    connections = Connections(
        kafka_bootstrap="k:9092",
        registry_url="http://r",
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="ledger",
        kafka_sasl_password=SecretStr("hunter2"),
        kafka_ssl_ca="/etc/ca.pem",
    )
    assert connections.kafka() == {
        "bootstrap.servers": "k:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "ledger",
        "sasl.password": "hunter2",
        "ssl.ca.location": "/etc/ca.pem",
    }


def test_a_registrys_token_and_authority_reach_its_client() -> None:
    connections = Connections(
        _env_file=None, kafka_bootstrap="k:1", registry_url="https://r:1", registry_token="t", registry_ssl_ca="ca.pem"
    )
    config = connections.registry()
    assert (config["url"], config["ssl.ca.location"]) == ("https://r:1", "ca.pem")
    assert (config["bearer.auth.credentials.source"], config["bearer.auth.token"]) == ("STATIC_TOKEN", "t")
    assert "registry_token=SecretStr('**********')" in repr(connections)


def test_redis_with_tls_trusts_the_authority_that_is_named() -> None:
    def url(redis_url: str) -> str:
        return Connections(
            _env_file=None, kafka_bootstrap="k:1", registry_url="http://r:1", redis_url=redis_url, redis_ssl_ca="/a b"
        ).redis()

    assert url("rediss://user:secret@r:6380/0") == "rediss://user:secret@r:6380/0?ssl_ca_certs=%2Fa+b"
    # Without TLS there is nobody to trust, and the client would refuse the option.
    assert url("redis://r:6379/0") == "redis://r:6379/0"
