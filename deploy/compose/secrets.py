"""The compose stack's secrets: made when they are first needed, kept in `.env`, and given to each container as files.

`.env`, at the top of the project, has one password for each principal, and is the only place to change one. From it,
`.secrets/<service>/` is written anew each time: what that service needs and nothing else, mounted into its container.
`.secrets/admin`, `.secrets/operator` and `.secrets/client` are for programs on this machine:

    DAYBOOK_ENV_FILE=.secrets/operator/env daybook balance A-1

Git ignores both. `docker compose up` runs this as its first step, and `docker compose run --rm secrets` alone: the
overlays that the stack runs with say what goes into the files.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from deploy.access import audit, elasticsearch, redis, registry
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
    READ_HOLDERS,
    REGISTRY,
)
from deploy.compose.certificates import Pair, new_authority, new_server
from schemas.connections import NotConfigured
from schemas.keyring import kept_file
from schemas.readmodels import Indices

_PASSWORD_BYTES: Final = 24
"""192 bits, in letters and digits that mean nothing to a shell, a URL, JAAS or compose."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)

_PREFIX: Final = "DAYBOOK_PASSWORD_"
_GRAFANA: Final = "grafana"

_ABOUT: Final = """\
# Made by the first step of `docker compose up`, which adds what is missing and changes nothing. Keep it from others and
# out of version control. docs/OPERATIONS.md says how to change a password.
"""

_PORTS: Final = {"KAFKA": 29092, "REGISTRY": 28081, "ELASTICSEARCH": 29200, "REDIS": 26379, "ACTIVITY": 26066}
"""On this machine, unless DAYBOOK_PORT_<NAME> says otherwise."""

_TLS_SERVERS: Final = ("kafka", "registry", "elasticsearch", "redis")


@dataclass(frozen=True, slots=True)
class _Addresses:
    """Where the servers are, seen from where a program runs."""

    kafka: str
    registry: str
    elasticsearch: str
    redis: str
    redis_scheme: str = "redis"
    protocol: str = "SASL_PLAINTEXT"
    mechanism: str = "SCRAM-SHA-512"
    authority: str | None = None
    """The file of the certificate to trust, where servers have one."""


def password_variable(name: str) -> str:
    """The variable of `.env` that has a principal's password."""
    return _PREFIX + name.upper().replace("-", "_")


class BadOverlays(Exception):
    """The compose files that were put together leave a broker without TLS that is to have it."""


class BadPassword(Exception):
    """`.env` has a password that cannot be handed on."""


def passwords(project: Path) -> dict[str, str]:
    """Everybody's password by name: those that `.env` has, and new ones, which are added to it.

    Raises:
        BadPassword: one has characters that mean something to a URL, to JAAS, to a dotenv file or to a shell.
    """
    path = project / ".env"
    found = dotenv_values(path, interpolate=False) if path.exists() else {}
    names = (*PRINCIPALS, _GRAFANA)
    missing = [name for name in names if not found.get(password_variable(name))]
    for name in names:
        if found.get(password_variable(name)) and not _PLAIN.fullmatch(str(found[password_variable(name)])):
            raise BadPassword(
                f"{password_variable(name)} in {path}: use letters, digits, _ and - only, or delete the line for a new "
                "password"
            )
    new = {name: secrets.token_hex(_PASSWORD_BYTES) for name in missing}
    if new:
        before = path.read_text(encoding="utf-8") if path.exists() else _ABOUT
        if not before.endswith("\n"):
            before += "\n"
        _write(path, before + "".join(f"{password_variable(name)}={new[name]}\n" for name in missing), mode=0o600)
    return {name: new.get(name) or str(found[password_variable(name)]) for name in names}


def derive(project: Path, passwords: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Write `.secrets/` from the passwords.

    `environment` says where programs on this machine reach the servers (DAYBOOK_PORT_KAFKA and the like), and by
    DAYBOOK_BROKERS what the brokers are called in the network. Those that DAYBOOK_TLS_BROKERS names offer TLS to
    programs on this machine, as the other servers then do.

    Raises:
        BadOverlays: some brokers offer it, and others do not.
        NotConfigured: the key-encryption keys cannot be made, or are not text.
    """
    brokers = (environment.get("DAYBOOK_BROKERS") or "kafka").split(",")
    with_tls = environment.get("DAYBOOK_TLS_BROKERS") or ""
    tls = bool(with_tls)
    if tls and (bare := set(brokers) - set(with_tls.split(","))):
        raise BadOverlays(
            f"no TLS on {', '.join(sorted(bare))}: put -f deploy/compose/cluster-tls.yml behind the overlays for TLS "
            "and for three brokers"
        )
    folder = project / ".secrets"
    # Each container's user reads its own folder, and who that is depends on the image; nobody else gets this far.
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    authority, servers = _certificates(folder)
    private_key, public_key = _registry_key(folder)
    token = registry.token(private_key, ADMIN)
    # Kept there, and copied to those who sign and who verify.
    signing, verifying = audit.kept_key(folder / "keys")
    audit_public = {"audit.pem.pub": verifying.read_text(encoding="utf-8")}
    audit_private = {"audit.pem": signing.read_text(encoding="utf-8")}
    # Likewise. Without it nobody reads a holder's name again: it belongs in the backup, apart from Kafka's data.
    kek = {"kek": kept_file(folder / "keys" / "kek", datetime.now(UTC)).read_text(encoding="utf-8")}

    _write_all(folder / "kafka", {"server.properties": _jaas(passwords), "server.pem": _chain(servers["kafka"])})
    _write_all(
        folder / "registry",
        {
            "application.properties": registry.properties_file(registry.properties(public_key, passwords[REGISTRY])),
            "server.crt": servers["registry"].certificate,
            "server.key": servers["registry"].key,
        },
    )
    _write_all(
        folder / "elasticsearch",
        {
            **elasticsearch.files(passwords, Indices()),
            "server.crt": servers["elasticsearch"].certificate,
            "server.key": servers["elasticsearch"].key,
            "ca.crt": authority.certificate,
        },
    )
    _write_all(
        folder / "redis",
        {
            "users.acl": redis.acl_file(passwords),
            "server.crt": servers["redis"].certificate,
            "server.key": servers["redis"].key,
            "ca.crt": authority.certificate,
        },
    )
    _write_all(folder / "grafana", {"password": passwords[_GRAFANA]})

    inside = _Addresses(
        # All of them, since any one may be down while a program starts.
        ",".join(f"{broker}:9092" for broker in brokers),
        "http://registry:8080",
        f"http{'s' if tls else ''}://elasticsearch:9200",
        "redis:6379",
        authority="/run/daybook/ca.crt" if tls else None,
    )
    ca = {"ca.crt": authority.certificate}
    for service, principal in {
        COMMAND_SERVICE: COMMAND_SERVICE,
        PROJECTOR_BALANCES: PROJECTOR_BALANCES,
        PROJECTOR_SEARCH: PROJECTOR_SEARCH,
        PROJECTOR_ANALYTICS: PROJECTOR_ANALYTICS,
        PROJECTOR_ACTIVITY: PROJECTOR_ACTIVITY,
        AUDITOR: AUDITOR,
        "daybook": OPERATOR,
    }.items():
        env = _env(principal, passwords, inside, token) + _keys_env(principal, "/run/daybook")
        keys = _audit_files(principal, audit_private, audit_public) | _kek_files(principal, kek)
        _write_all(folder / service, {"env": env, **ca, **keys})
    # Its own listener is there before any credential is; the brokers know this one principal besides themselves.
    between_brokers = replace(inside, kafka=",".join(f"{broker}:19091" for broker in brokers), mechanism="PLAIN")
    deploy = _env(ADMIN, passwords, between_brokers, token)
    of_kafka = "".join(f"{name}={passwords[name]}\n" for name in PRINCIPALS)
    _write_all(folder / "deploy", {"env": deploy, "passwords": of_kafka, **ca})

    ports = {name: environment.get(f"DAYBOOK_PORT_{name}") or str(port) for name, port in _PORTS.items()}
    scheme = "https" if tls else "http"
    outside = _Addresses(
        f"127.0.0.1:{ports['KAFKA']}",
        f"{scheme}://127.0.0.1:{ports['REGISTRY']}",
        f"{scheme}://127.0.0.1:{ports['ELASTICSEARCH']}",
        f"127.0.0.1:{ports['REDIS']}",
        redis_scheme="rediss" if tls else "redis",
        protocol="SASL_SSL" if tls else "SASL_PLAINTEXT",
    )
    at_home = environment.get("DAYBOOK_PROJECT_FOLDER") or str(project.resolve())
    for principal in (ADMIN, OPERATOR, CLIENT):
        at = replace(outside, authority=f"{at_home}/.secrets/{principal}/ca.crt" if tls else None)
        env = _env(principal, passwords, at, token)
        env += f"DAYBOOK_ACTIVITY_URL=http://127.0.0.1:{ports['ACTIVITY']}\n"
        env += _keys_env(principal, f"{at_home}/.secrets/{principal}")
        keys = _audit_files(principal, audit_private, audit_public) | _kek_files(principal, kek)
        _write_all(folder / principal, {"env": env, **ca, **keys})


def _env(principal: str, passwords: Mapping[str, str], at: _Addresses, token: str) -> str:
    """A dotenv file of what a principal's program needs to know."""
    password = passwords[principal]
    values = {
        "KAFKA_BOOTSTRAP": at.kafka,
        "KAFKA_SECURITY_PROTOCOL": at.protocol,
        "KAFKA_SASL_MECHANISM": at.mechanism,
        "KAFKA_SASL_USERNAME": principal,
        "KAFKA_SASL_PASSWORD": password,
        "REGISTRY_URL": f"{at.registry}/apis/ccompat/v7",
    }
    if principal == ADMIN:
        values["REGISTRY_TOKEN"] = token
    if principal in elasticsearch.USERS:
        values |= {
            "ELASTICSEARCH_URL": at.elasticsearch,
            "ELASTICSEARCH_USERNAME": principal,
            "ELASTICSEARCH_PASSWORD": password,
        }
    if principal in redis.USERS:
        values["REDIS_URL"] = f"{at.redis_scheme}://{principal}:{password}@{at.redis}/0"
    if at.authority is not None:
        values |= {f"{server}_SSL_CA": at.authority for server in ("KAFKA", "REGISTRY", "ELASTICSEARCH", "REDIS")}
    return "".join(f"DAYBOOK_{name}={value}\n" for name, value in values.items())


def _keys_env(principal: str, folder: str) -> str:
    """Where a principal's folder, as its program sees it, has what `_audit_files` and `_kek_files` put there."""
    files: dict[str, str] = {}
    if principal == AUDITOR:
        files["AUDIT_KEY"] = "audit.pem"
    if principal in (AUDITOR, OPERATOR):
        files["AUDIT_PUBLIC_KEY"] = "audit.pem.pub"
    if principal in READ_HOLDERS:
        files["KEK"] = "kek"
    return "".join(f"DAYBOOK_{name}_FILE={folder}/{file}\n" for name, file in files.items())


def _kek_files(principal: str, kek: dict[str, str]) -> dict[str, str]:
    """Who seals personal fields or opens them has all key-encryption keys; nobody else has one."""
    return kek if principal in READ_HOLDERS else {}


def _audit_files(principal: str, private: dict[str, str], public: dict[str, str]) -> dict[str, str]:
    """The auditor signs; the operator verifies, as anybody may, and is given what that takes."""
    match principal:
        case "auditor":
            return {**private, **public}
        case "operator":
            return public
        case _:
            return {}


def _jaas(passwords: Mapping[str, str]) -> str:
    """How the brokers log in to each other, and who may use their listeners; the rest is in docker-compose.yml."""
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    itself = f'username="{BROKER}" password="{passwords[BROKER]}"'
    known = "".join(f' user_{name}="{passwords[name]}"' for name in (BROKER, ADMIN))
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return (
        f"listener.name.controller.plain.sasl.jaas.config={plain} {itself}{known};\n"
        f"listener.name.broker.plain.sasl.jaas.config={plain} {itself}{known};\n"
        f"listener.name.internal.scram-sha-512.sasl.jaas.config={scram}\n"
        f"listener.name.external.scram-sha-512.sasl.jaas.config={scram}\n"
    )


def _chain(pair: Pair) -> str:
    return pair.key + pair.certificate


def _registry_key(folder: Path) -> tuple[str, str]:
    private, public = folder / "keys" / "registry.key", folder / "keys" / "registry.pub"
    if not (private.exists() and public.exists()):
        keys = registry.new_key()
        _write_all(folder / "keys", {"registry.key": keys[0], "registry.pub": keys[1]}, mode=0o600)
    return private.read_text(encoding="utf-8"), public.read_text(encoding="utf-8")


def _certificates(folder: Path) -> tuple[Pair, Mapping[str, Pair]]:
    now = datetime.now(UTC)
    authority = _kept(folder / "keys", "authority", now)
    renewed = authority is None
    if authority is None:
        authority = new_authority(now)
        _keep(folder / "keys", "authority", authority)
    servers: dict[str, Pair] = {}
    for name in _TLS_SERVERS:
        pair = None if renewed else _kept(folder / "keys", name, now)
        if pair is None:
            pair = new_server(authority, (name, "localhost", "127.0.0.1"), now)
            _keep(folder / "keys", name, pair)
        servers[name] = pair
    return authority, servers


def _kept(folder: Path, name: str, now: datetime) -> Pair | None:
    try:
        pair = Pair((folder / f"{name}.crt").read_text("utf-8"), (folder / f"{name}.tls.key").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return None if pair.expires_soon(now) else pair


def _keep(folder: Path, name: str, pair: Pair) -> None:
    _write_all(folder, {f"{name}.crt": pair.certificate, f"{name}.tls.key": pair.key}, mode=0o600)


def _write_all(folder: Path, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755 if mode == 0o644 else 0o700)
    for name, text in files.items():
        _write(folder / name, text, mode=mode)


def _write(path: Path, text: str, *, mode: int) -> None:
    """Write a file in one step: a reader sees the old text or the new one. Nobody else can open it meanwhile."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.chmod(mode)
    unfinished.replace(path)


def _give_to_owner(project: Path) -> None:
    """What root made here, as in a container, is the project's owner's: they must be able to read and remove it."""
    owner = project.stat()
    if os.geteuid() == 0:
        top = project / ".secrets"
        for path in (project / ".env", top, *top.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def main(arguments: list[str] | None = None) -> int:
    """Make what is missing, and derive the rest. Exit codes: 0 done; 1 what is there cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.compose.secrets",
        description="Make the compose stack's secrets where they are missing (.env), and give each service its own "
        "(.secrets/).",
    )
    parser.add_argument("--project", type=Path, default=Path(), help="the folder of docker-compose.yml")
    project: Path = parser.parse_args(arguments).project
    try:
        derive(project, passwords(project), os.environ)
        _give_to_owner(project)
    except (BadPassword, BadOverlays, NotConfigured) as error:
        print(f"secrets: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"secrets: {error.filename or project}: {error.strerror}. May you write there?", file=sys.stderr)
        return 1
    print(f"secrets: {project / '.env'} and {project / '.secrets'} are there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
