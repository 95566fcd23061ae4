"""The compose stack's secrets: made once, kept, and given to each service as far as it needs them."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from dotenv import dotenv_values
from joserfc import jwt
from joserfc.jwk import RSAKey

from deploy.access.passwords import read as read_passwords
from deploy.access.principals import (
    ADMIN,
    AUDITOR,
    BROKER,
    CLIENT,
    COMMAND_SERVICE,
    OPERATOR,
    PRINCIPALS,
    PROJECTOR_ACTIVITY,
    PROJECTOR_ANALYTICS,
    PROJECTOR_BALANCES,
    PROJECTOR_SEARCH,
    REGISTRY,
)
from deploy.compose.certificates import Pair, new_authority, new_server
from deploy.compose.secrets import derive, main, password_variable, passwords
from schemas.keyring import KeyRing, add_key
from tests.processes import connections_to

SERVERS = ("kafka", "registry", "elasticsearch", "redis")

# Whose passwords may stand in a container's folder as they are. Elasticsearch and Redis have salted or plain hashes.
MAY_HOLD: dict[str, set[str]] = {
    "kafka": {BROKER, ADMIN},
    "registry": {REGISTRY},
    "elasticsearch": set(),
    "redis": set(),
    "deploy": set(PRINCIPALS),
    "command-service": {COMMAND_SERVICE},
    "projector-balances": {PROJECTOR_BALANCES},
    "projector-search": {PROJECTOR_SEARCH},
    "projector-analytics": {PROJECTOR_ANALYTICS},
    "projector-activity": {PROJECTOR_ACTIVITY},
    "auditor": {AUDITOR},
    "daybook": {OPERATOR},
    "admin": {ADMIN},
    "operator": {OPERATOR},
    "client": {CLIENT},
    "grafana": {"grafana"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its secrets made."""
    project = tmp_path_factory.mktemp("project")
    assert main(["--project", str(project)]) == 0
    return project


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_principal_gets_a_password_of_its_own(made: Path) -> None:
    found = dotenv_values(made / ".env")
    for name in PRINCIPALS:
        assert re.fullmatch("[0-9a-f]{48}", found[password_variable(name)] or "")
    assert len(set(found.values())) == len(found)


def test_another_project_gets_other_secrets(made: Path, tmp_path: Path) -> None:
    derive(tmp_path, passwords(tmp_path), {})
    assert not set(dotenv_values(made / ".env").values()) & set(dotenv_values(tmp_path / ".env").values())
    for name in ("authority.crt", "registry.key", "kafka.tls.key"):
        assert (made / ".secrets/keys" / name).read_text() != (tmp_path / ".secrets/keys" / name).read_text()


def test_making_them_again_changes_nothing(tmp_path: Path) -> None:
    assert main(["--project", str(tmp_path)]) == 0
    before, env = contents(tmp_path / ".secrets"), (tmp_path / ".env").read_text()
    assert main(["--project", str(tmp_path)]) == 0
    after = contents(tmp_path / ".secrets")
    assert (tmp_path / ".env").read_text() == env
    # What is salted or dated anew means the same: hashes of passwords, and the administrator's token.
    anew = {name for name in before | after if before.get(name) != after.get(name)}
    assert anew <= {"elasticsearch/users", "admin/env", "deploy/env"}
    for name in ("admin/env", "deploy/env"):
        without = [
            [line for line in text[name].splitlines() if not line.startswith("DAYBOOK_REGISTRY_TOKEN=")]
            for text in (before, after)
        ]
        assert without[0] == without[1]


def test_what_the_file_has_is_kept_and_what_it_lacks_is_added(tmp_path: Path) -> None:
    own = f"# mine\nDAYBOOK_REDIS_IMAGE=redis:7.0-bookworm\n{password_variable(CLIENT)}=chosen-by-hand\n"
    # Without a line's end, as some editors leave it.
    (tmp_path / ".env").write_text(own.rstrip("\n"))
    found = passwords(tmp_path)
    assert (tmp_path / ".env").read_text().startswith(own)
    assert found[CLIENT] == "chosen-by-hand"
    assert found.keys() >= set(PRINCIPALS)
    assert passwords(tmp_path) == found
    assert mode(tmp_path / ".env") == 0o600


def test_an_empty_password_is_no_password(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{password_variable(ADMIN)}=\n")
    found = passwords(tmp_path)
    assert len(found[ADMIN]) == 48
    assert passwords(tmp_path) == found


def test_a_changed_password_reaches_all_that_know_it(tmp_path: Path) -> None:
    derive(tmp_path, passwords(tmp_path), {})
    old = passwords(tmp_path)[CLIENT]
    env = tmp_path / ".env"
    env.write_text(env.read_text().replace(old, "f00d" * 12))
    redis_before = (tmp_path / ".secrets/redis/users.acl").read_text()
    derive(tmp_path, passwords(tmp_path), {})
    assert not [name for name, text in contents(tmp_path / ".secrets").items() if old in text]
    assert "f00d" * 12 in (tmp_path / ".secrets/client/env").read_text()
    assert "f00d" * 12 in (tmp_path / ".secrets/deploy/passwords").read_text()
    assert (tmp_path / ".secrets/redis/users.acl").read_text() != redis_before


def test_nobody_but_the_owner_gets_to_them(made: Path) -> None:
    assert mode(made / ".env") == 0o600
    # The containers' users, whoever they are, read the folders below, each of which is mounted by itself.
    assert mode(made / ".secrets") == 0o700
    assert mode(made / ".secrets/keys") == 0o700
    for path in (made / ".secrets/keys").iterdir():
        assert mode(path) == 0o600, path


def test_no_unfinished_file_is_left(made: Path) -> None:
    assert not list(made.rglob("*.new"))


def test_each_folder_holds_what_its_service_needs_and_nobody_elses_password(made: Path) -> None:
    known = passwords(made)
    folders = {path.name for path in (made / ".secrets").iterdir()}
    assert folders == MAY_HOLD.keys() | {"keys"}
    for folder, may in MAY_HOLD.items():
        text = "\n".join(contents(made / ".secrets" / folder).values())
        assert {name for name, password in known.items() if password in text} == may, folder


def test_private_keys_are_where_they_are_used_alone(made: Path) -> None:
    for name, text in contents(made / ".secrets").items():
        folder = name.partition("/")[0]
        assert ("PRIVATE KEY" in text) <= (folder in ("keys", "auditor") or folder in SERVERS), name
    signing = {(made / ".secrets/keys" / name).read_text() for name in ("registry.key", "authority.tls.key")}
    for name, text in contents(made / ".secrets").items():
        assert name.startswith("keys/") or not any(key in text for key in signing), name


def test_the_auditor_alone_signs_and_whoever_verifies_has_the_public_key(made: Path) -> None:
    private, public = ((made / ".secrets/keys" / name).read_text() for name in ("audit.pem", "audit.pem.pub"))
    found = contents(made / ".secrets")
    assert {name for name, text in found.items() if text == private} == {"keys/audit.pem", "auditor/audit.pem"}
    assert {name.partition("/")[0] for name, text in found.items() if text == public} == {
        *("keys", "auditor", "daybook", "operator")
    }
    inside = dotenv_values(made / ".secrets/auditor/env")
    assert inside["DAYBOOK_AUDIT_KEY_FILE"] == "/run/daybook/audit.pem"
    assert inside["DAYBOOK_AUDIT_PUBLIC_KEY_FILE"] == "/run/daybook/audit.pem.pub"
    outside = dotenv_values(made / ".secrets/operator/env")
    assert Path(outside["DAYBOOK_AUDIT_PUBLIC_KEY_FILE"] or "").read_text() == public
    assert "DAYBOOK_AUDIT_KEY_FILE" not in outside


def test_who_reads_holders_has_the_key_encryption_keys_and_nobody_else(made: Path) -> None:
    keys = (made / ".secrets/keys/kek").read_text()
    found = contents(made / ".secrets")
    key = keys.splitlines()[-1].split()[1]
    assert {name for name, text in found.items() if key in text} == {
        *("keys/kek", "command-service/kek", "projector-search/kek", "daybook/kek", "operator/kek")
    }
    named = {folder: dotenv_values(made / ".secrets" / folder / "env").get("DAYBOOK_KEK_FILE") for folder in MAY_HOLD}
    assert {folder for folder, file in named.items() if file} == {
        *("command-service", "projector-search", "daybook", "operator")
    }
    assert named["command-service"] == "/run/daybook/kek"
    assert KeyRing.read(Path(named["operator"] or "")).ids == KeyRing.read(made / ".secrets/keys/kek").ids


def test_the_key_encryption_keys_are_kept_and_a_new_one_is_handed_on(made: Path) -> None:
    kept = made / ".secrets/keys/kek"
    (before,) = KeyRing.read(kept).ids
    new = add_key(kept, datetime.now(UTC))
    derive(made, passwords(made), {})
    assert KeyRing.read(kept).ids == KeyRing.read(made / ".secrets/command-service/kek").ids == (new, before)


def test_only_who_deploys_has_a_token_that_may_write_schemas(made: Path) -> None:
    public = RSAKey.import_key((made / ".secrets/keys/registry.pub").read_text())
    with_token = set()
    for folder in MAY_HOLD:
        path = made / ".secrets" / folder / "env"
        token = dotenv_values(path).get("DAYBOOK_REGISTRY_TOKEN") if path.exists() else None
        if token is not None:
            with_token.add(folder)
            assert jwt.decode(token, public).claims["roles"] == ["sr-admin"]
    assert with_token == {"admin", "deploy"}


def test_passwords_for_the_deployment_are_in_the_form_that_it_reads(made: Path) -> None:
    known = passwords(made)
    assert read_passwords(made / ".secrets/deploy/passwords") == {name: known[name] for name in PRINCIPALS}


@pytest.mark.parametrize("who", ["admin", "operator", "client"])
def test_programs_on_this_machine_are_told_the_published_ports(tmp_path: Path, who: str) -> None:
    ports = {"KAFKA": "1", "REGISTRY": "2", "ELASTICSEARCH": "3", "REDIS": "4", "ACTIVITY": "5"}
    derive(tmp_path, passwords(tmp_path), {f"DAYBOOK_PORT_{name}": port for name, port in ports.items()})
    found = dotenv_values(tmp_path / ".secrets" / who / "env")
    connections = connections_to({name: value for name, value in found.items() if value is not None})
    assert connections.kafka()["bootstrap.servers"] == "127.0.0.1:1"
    assert connections.kafka()["security.protocol"] == "SASL_PLAINTEXT"
    assert connections.kafka()["sasl.username"] == who
    assert connections.registry_url.startswith("http://127.0.0.1:2/")
    assert connections.elasticsearch()["hosts"] == "http://127.0.0.1:3"
    assert connections.redis().endswith("@127.0.0.1:4/0")
    assert found["DAYBOOK_ACTIVITY_URL"] == "http://127.0.0.1:5"


def test_with_tls_they_are_told_whom_to_trust(tmp_path: Path) -> None:
    derive(
        tmp_path, passwords(tmp_path), {"DAYBOOK_TLS_BROKERS": "kafka", "DAYBOOK_PROJECT_FOLDER": "/home/ada/daybook"}
    )
    found = dotenv_values(tmp_path / ".secrets/client/env")
    connections = connections_to({name: value for name, value in found.items() if value is not None})
    ca = "/home/ada/daybook/.secrets/client/ca.crt"
    assert connections.kafka()["security.protocol"] == "SASL_SSL"
    assert connections.kafka()["ssl.ca.location"] == ca
    assert connections.registry()["ssl.ca.location"] == ca
    assert connections.elasticsearch()["ca_certs"] == ca
    assert connections.registry_url.startswith("https://")
    assert connections.redis().startswith("rediss://")
    inside = dotenv_values(tmp_path / ".secrets/projector-search/env")
    assert inside["DAYBOOK_ELASTICSEARCH_URL"] == "https://elasticsearch:9200"
    assert inside["DAYBOOK_ELASTICSEARCH_SSL_CA"] == "/run/daybook/ca.crt"
    assert (tmp_path / ".secrets/projector-search/ca.crt").read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_services_are_told_of_every_broker(tmp_path: Path) -> None:
    derive(tmp_path, passwords(tmp_path), {"DAYBOOK_BROKERS": "kafka,kafka-2"})
    assert dotenv_values(tmp_path / ".secrets/daybook/env")["DAYBOOK_KAFKA_BOOTSTRAP"] == "kafka:9092,kafka-2:9092"
    # Where credentials are made, there are none yet to log in with at the services' own listener.
    deploying = dotenv_values(tmp_path / ".secrets/deploy/env")
    assert deploying["DAYBOOK_KAFKA_BOOTSTRAP"] == "kafka:19091,kafka-2:19091"
    assert deploying["DAYBOOK_KAFKA_SASL_MECHANISM"] == "PLAIN"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing"
    assert main(["--project", str(missing)]) == 1
    assert str(missing) in capsys.readouterr().err


# Certificates.


def certificate(folder: Path, server: str) -> x509.Certificate:
    """What the server is given, found in its own folder."""
    for text in contents(folder / ".secrets" / server).values():
        begins = text.find("-----BEGIN CERTIFICATE-----")
        found = begins >= 0 and x509.load_pem_x509_certificate(text[begins:].encode())
        if found and not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return found
    raise AssertionError(f"{server} has no certificate")


def verify(found: x509.Certificate, authority: x509.Certificate, name: x509.GeneralName, at: datetime) -> None:
    store = Store([authority])
    subject = x509.IPAddress(name.value) if isinstance(name, x509.IPAddress) else x509.DNSName(str(name.value))
    PolicyBuilder().store(store).time(at).build_server_verifier(subject).verify(found, [])


@pytest.mark.parametrize("server", SERVERS)
def test_a_servers_certificate_holds_for_its_names_and_for_two_years(made: Path, server: str) -> None:
    authority = x509.load_pem_x509_certificate((made / ".secrets/client/ca.crt").read_bytes())
    found = certificate(made, server)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {server, "localhost", "127.0.0.1"}
    now = datetime.now(UTC)
    for name in names:
        verify(found, authority, name, now)
        verify(found, authority, name, now + timedelta(days=824))
        with pytest.raises(VerificationError):
            verify(found, authority, name, now + timedelta(days=826))
    with pytest.raises(VerificationError):
        verify(found, authority, x509.DNSName("elsewhere"), now)


def test_another_authoritys_certificate_does_not_pass(made: Path) -> None:
    now = datetime.now(UTC)
    foreign = new_server(new_authority(now), ("kafka", "localhost"), now)
    authority = x509.load_pem_x509_certificate((made / ".secrets/client/ca.crt").read_bytes())
    with pytest.raises(VerificationError):
        verify(x509.load_pem_x509_certificate(foreign.certificate.encode()), authority, x509.DNSName("kafka"), now)


def test_a_certificate_that_runs_out_is_made_anew_by_the_same_authority(tmp_path: Path) -> None:
    derive(tmp_path, passwords(tmp_path), {})
    keys = tmp_path / ".secrets/keys"
    ca = (keys / "authority.crt").read_text()
    # As it was made two years ago and a bit.
    authority = Pair(ca, (keys / "authority.tls.key").read_text())
    old = new_server(authority, ("kafka", "localhost", "127.0.0.1"), datetime.now(UTC) - timedelta(days=800))
    (keys / "kafka.crt").write_text(old.certificate)
    (keys / "kafka.tls.key").write_text(old.key)
    others = (keys / "redis.crt").read_text()
    derive(tmp_path, passwords(tmp_path), {})
    assert (keys / "authority.crt").read_text() == ca
    assert (keys / "redis.crt").read_text() == others
    found = certificate(tmp_path, "kafka")
    assert found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=800)
    verify(found, x509.load_pem_x509_certificate(ca.encode()), x509.DNSName("kafka"), datetime.now(UTC))


def test_a_servers_key_belongs_to_its_certificate(made: Path) -> None:
    for server in SERVERS:
        texts = contents(made / ".secrets" / server)
        key = next(text for text in texts.values() if "PRIVATE KEY" in text)
        assert load_pem_private_key(key.encode(), None).public_key() == certificate(made, server).public_key()


@pytest.mark.parametrize("password", ["k7/Qx+3v==", 'a"b', "a b", "${HOME}", "a#b", "é"])
def test_a_password_that_means_something_to_a_url_or_to_jaas_is_turned_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], password: str
) -> None:
    before = f"{password_variable(CLIENT)}='{password}'\n"
    (tmp_path / ".env").write_text(before, encoding="utf-8")
    assert main(["--project", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "DAYBOOK_PASSWORD_CLIENT" in told
    assert "letters, digits" in told
    assert password not in told
    assert (tmp_path / ".env").read_text(encoding="utf-8") == before


def test_three_brokers_of_which_two_lack_tls_are_turned_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the overlays for TLS and for three brokers alone would make them."""
    monkeypatch.setenv("DAYBOOK_BROKERS", "kafka,kafka-2,kafka-3")
    monkeypatch.setenv("DAYBOOK_TLS_BROKERS", "kafka")
    assert main(["--project", str(tmp_path)]) == 1
    assert "no TLS on kafka-2, kafka-3: put -f deploy/compose/cluster-tls.yml" in capsys.readouterr().err
    monkeypatch.setenv("DAYBOOK_TLS_BROKERS", "kafka,kafka-2,kafka-3")
    assert main(["--project", str(tmp_path)]) == 0
