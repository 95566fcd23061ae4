"""Who may what, as it is written down for each server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.errors import BadSignatureError
from joserfc.jwk import RSAKey

from deploy.access import elasticsearch, passwords, redis, registry
from deploy.access.compared import compared_credentials, compared_rights
from deploy.access.kafka import EVERYBODY, Acl, wanted_acls
from deploy.access.principals import (
    ADMIN,
    AUDITOR,
    BROKER,
    CLIENT,
    COMMAND_SERVICE,
    OPERATOR,
    PRINCIPALS,
    PROJECTOR_BALANCES,
    PROJECTOR_SEARCH,
    PROJECTORS,
    READ_HOLDERS,
    SCRAM_PRINCIPALS,
)
from deploy.differences import DenyingAcl, MissingCredential, MissingRights, UnwantedRights, WrongCredential
from schemas.connections import NotConfigured
from schemas.readmodels import Indices
from schemas.topics import Topics

TOPICS = Topics()
PASSWORDS = {name: f"secret-of-{name}" for name in PRINCIPALS}


def writers(topic: str) -> set[str]:
    return {
        acl.principal
        for acl in wanted_acls(TOPICS)
        if acl.resource == "topic"
        and acl.operation in ("write", "all")
        and (acl.name == topic or (acl.is_prefix and topic.startswith(acl.name)))
    }


def test_the_command_service_alone_writes_what_it_decides() -> None:
    for topic in (TOPICS.events, TOPICS.followups, TOPICS.snapshots, TOPICS.replies):
        assert writers(topic) == {COMMAND_SERVICE}, topic
    # The tombstones of an erasure.
    assert writers(TOPICS.parked) == {COMMAND_SERVICE, OPERATOR}
    assert writers(TOPICS.checkpoints) == {AUDITOR}
    assert writers(TOPICS.commands) == {COMMAND_SERVICE, CLIENT, OPERATOR}


def test_who_reads_holders_may_read_their_keys_and_the_command_service_alone_writes_them() -> None:
    rights = {(acl.principal, acl.operation) for acl in wanted_acls(TOPICS) if acl.name == TOPICS.subject_keys}
    readers = {principal for principal, operation in rights if operation == "read"}
    assert readers == set(READ_HOLDERS) == {COMMAND_SERVICE, PROJECTOR_SEARCH, OPERATOR}
    # Anybody else could put a key back behind its tombstone, which would undo an erasure.
    assert writers(TOPICS.subject_keys) == {COMMAND_SERVICE}


def test_nobody_may_change_or_delete_anything_but_what_an_erasure_deletes() -> None:
    harmless = {"read", "write", "describe", "describe_configs", "create"}
    harmful = {acl for acl in wanted_acls(TOPICS) if acl.operation not in harmless}
    assert harmful == {Acl(OPERATOR, "delete", "topic", TOPICS.commands)}
    assert all(acl.allows and acl.name != EVERYBODY for acl in wanted_acls(TOPICS))
    assert {acl.resource for acl in wanted_acls(TOPICS)} == {"topic", "group", "transactional_id", "cluster"}
    of_all = {(acl.principal, acl.operation) for acl in wanted_acls(TOPICS) if acl.resource == "cluster"}
    assert of_all == {(OPERATOR, "describe_configs")}
    assert not {acl for acl in wanted_acls(TOPICS) if acl.principal in (ADMIN, BROKER, EVERYBODY)}


def test_a_ledgers_rights_are_to_its_own_names() -> None:
    own = {acl for acl in wanted_acls(Topics("eu")) if acl.principal != "registry" and acl.resource != "cluster"}
    assert own
    assert all(acl.name.startswith("eu.") for acl in own)


def test_projectors_only_read_events_and_the_search_projector_keys_of_holders() -> None:
    for principal in PROJECTORS[:-1]:
        mine = {(acl.operation, acl.name) for acl in wanted_acls(TOPICS) if acl.principal == principal}
        group = f"daybook.projector.{principal.removeprefix('projector-')}"
        keys = {("read", TOPICS.subject_keys)} if principal == PROJECTOR_SEARCH else set()
        assert mine == {("read", TOPICS.events), ("read", group), ("read", f"{group}.rebuild"), *keys}


def test_nothing_differs_where_all_rights_are_there() -> None:
    assert list(compared_rights(wanted_acls(TOPICS), wanted_acls(TOPICS))) == []


def test_missing_rights_are_named_by_principal() -> None:
    lacking = Acl(CLIENT, "read", "topic", TOPICS.replies)
    (found,) = compared_rights(wanted_acls(TOPICS), wanted_acls(TOPICS) - {lacking})
    assert found == MissingRights(CLIENT, (lacking,))
    assert found.problem == "principal client lacks rights in Kafka: read topic account.replies"


@pytest.mark.parametrize(
    "extra",
    [
        Acl(CLIENT, "read", "topic", TOPICS.events),
        Acl(CLIENT, "write", "topic", "account.", is_prefix=True),
        Acl(CLIENT, "all", "topic", EVERYBODY),
        Acl(CLIENT, "read", "topic", TOPICS.replies, host="10.0.0.1"),
        Acl(CLIENT, "alter", "cluster", "kafka-cluster"),
        Acl(EVERYBODY, "write", "topic", TOPICS.events),
        Acl("projector-search", "write", "topic", "daybook.projector.activity-x-changelog"),
    ],
    ids=str,
)
def test_a_right_too_many_is_found(extra: Acl) -> None:
    (found,) = compared_rights(wanted_acls(TOPICS), wanted_acls(TOPICS) | {extra})
    assert found == UnwantedRights(extra.principal, (extra,))


@pytest.mark.parametrize(
    "other",
    [
        Acl("somebody", "write", "topic", TOPICS.events),
        Acl(CLIENT, "read", "topic", "eu.account.replies"),
        Acl(CLIENT, "read", "topic", "orders"),
        Acl(CLIENT, "read", "group", TOPICS.events),
    ],
    ids=str,
)
def test_rights_of_others_and_to_other_things_are_left_alone(other: Acl) -> None:
    assert list(compared_rights(wanted_acls(TOPICS), wanted_acls(TOPICS) | {other})) == []


def test_a_denial_is_reported_and_left() -> None:
    denial = replace(Acl(CLIENT, "write", "topic", TOPICS.commands), allows=False)
    (found,) = compared_rights(wanted_acls(TOPICS), wanted_acls(TOPICS) | {denial})
    assert found == DenyingAcl(CLIENT, denial)


def test_credentials_are_missing_wrong_or_right() -> None:
    known = [name for name in SCRAM_PRINCIPALS if name != CLIENT]
    found = list(compared_credentials(PASSWORDS, known, [OPERATOR]))
    assert found == [MissingCredential(CLIENT), WrongCredential(OPERATOR)]
    assert not any("secret" in difference.problem for difference in found)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def lines(given: dict[str, str]) -> str:
    return "".join(f"{name}={password}\n" for name, password in given.items())


def test_a_passwords_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "passwords", f"# made by hand\n\n{lines(PASSWORDS | {CLIENT: 'a=b # c'})}")
    assert passwords.read(path) == PASSWORDS | {CLIENT: "a=b # c"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (lines({name: "x" for name in SCRAM_PRINCIPALS if name != CLIENT}), "no line for client"),
        ("client\n", "line 1: write principal=password"),
        ("client=\n", "line 1: write principal=password"),
        ("clint=x\n", 'line 1: there is no principal "clint"'),
        ("client=secret\nclient=secret\n", "line 2: client has a password already"),
    ],
)
def test_a_passwords_file_that_is_wrong_is_told_by_line_and_without_passwords(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(NotConfigured, match=re.escape(why)) as error:
        passwords.read(written(tmp_path / "passwords", text))
    assert "secret" not in str(error.value)


def test_a_passwords_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="nowhere cannot be read: No such file"):
        passwords.read(tmp_path / "nowhere")


def test_elasticsearch_gets_hashes_that_verify_and_no_password() -> None:
    files = elasticsearch.files(PASSWORDS, Indices())
    assert files.keys() == {"users", "users_roles", "roles.yml"}
    assert not any("secret" in text for text in files.values())
    hashes = dict(line.split(":", 1) for line in files["users"].splitlines())
    assert hashes.keys() == {ADMIN, PROJECTOR_SEARCH, CLIENT, OPERATOR}
    for name, stored in hashes.items():
        cost, salt, key = stored.removeprefix("{PBKDF2_STRETCH}").split("$")
        stretched = hashlib.sha512(PASSWORDS[name].encode()).hexdigest().encode()
        expected = hashlib.pbkdf2_hmac("sha512", stretched, base64.b64decode(salt), int(cost), 32)
        assert base64.b64decode(key) == expected


def test_every_role_of_elasticsearch_is_somebodys() -> None:
    files = elasticsearch.files(PASSWORDS, Indices("eu"))
    given = dict(line.split(":") for line in files["users_roles"].splitlines())
    roles = {name: json.loads(text) for name, text in (line.split(": ", 1) for line in files["roles.yml"].splitlines())}
    assert given == {"superuser": ADMIN} | {f"daybook-{name}": name for name in (PROJECTOR_SEARCH, CLIENT, OPERATOR)}
    assert roles.keys() == given.keys() - {"superuser"} | {elasticsearch.HEALTH_ROLE}
    assert {name for role in roles.values() for one in role.get("indices", ()) for name in one["names"]} == {
        *("eu.accounts", "eu.accounts-*", "eu.account-events", "eu.account-events-*")
    }
    assert roles["daybook-client"] == {
        "indices": [{"names": ["eu.accounts", "eu.account-events"], "privileges": ["read"]}]
    }


def test_redis_gets_hashes_and_lets_nobody_in_without_one() -> None:
    users = {line.split()[1]: line for line in redis.acl_file(PASSWORDS).splitlines()}
    assert users.pop("default") == "user default reset off"
    assert users.keys() == {ADMIN, PROJECTOR_BALANCES, CLIENT, OPERATOR}
    for name, line in users.items():
        assert f"#{hashlib.sha256(PASSWORDS[name].encode()).hexdigest()} " in line
        assert "secret" not in line
        assert "nopass" not in line


@pytest.mark.parametrize("made", [redis.acl_file, lambda given: elasticsearch.files(given, Indices())])
def test_a_principal_without_a_password_is_an_error(made: object) -> None:
    with pytest.raises(NotConfigured, match="no password for the principal client"):
        made({**PASSWORDS, CLIENT: ""})  # type: ignore[operator]


def test_a_token_is_signed_and_says_who_may_what() -> None:
    private, public = registry.new_key()
    key = RSAKey.import_key(public)
    claims = {name: jwt.decode(registry.token(private, name), key, algorithms=["RS256"]).claims for name in PRINCIPALS}
    assert {name for name in PRINCIPALS if claims[name]["roles"] == ["sr-admin"]} == {ADMIN}
    assert all(claims[name]["sub"] == name and claims[name]["exp"] > time.time() for name in PRINCIPALS)
    with pytest.raises(BadSignatureError):
        jwt.decode(registry.token(registry.new_key()[0], ADMIN), key, algorithms=["RS256"])


def test_the_registrys_settings_are_properties_and_variables() -> None:
    _, public = registry.new_key()
    found = registry.properties(public, 'a"b\\c${d}')
    assert found.items() >= registry.PROPERTIES.items()
    assert f"-----BEGIN PUBLIC KEY-----\n{found['quarkus.oidc.public-key']}".replace("\n", "")[:60] in public.replace(
        "\n", ""
    )
    assert registry.SETTINGS["APICURIO_AUTH_ROLE_BASED_AUTHORIZATION"] == "true"
    text = registry.properties_file(found)
    assert r'password="a\\"b\\\\c\\${d}";' in text
