"""Servers that let nobody do more than he may, from the same programs as the local stack's.

Kafka knows its administrator alone when it comes up; the others begin with all principals.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from elasticsearch import Elasticsearch as ElasticsearchClient
from elasticsearch import TransportError
from pydantic import SecretStr

from deploy.access import elasticsearch, redis, registry
from deploy.access.principals import ADMIN, BROKER, PRINCIPALS, READ_HOLDERS, REGISTRY
from deploy.stack import shim
from deploy.stack.downloads import cache_folder, fetch
from deploy.stack.elasticsearch import Elasticsearch
from deploy.stack.folder import Folder, Settings, write_text
from deploy.stack.kafka import Kafka
from deploy.stack.ports import choose
from deploy.stack.probes import HOST, answers_line, listens
from deploy.stack.redis import Redis
from deploy.stack.registry import CONFLUENT_API, Registry
from deploy.stack.server import Command, Place, Port, Server
from deploy.stack.serverprocess import tail
from deploy.stack.stack import Silent, new_cluster_id
from schemas.connections import Connections
from schemas.readmodels import Indices

_PROBE_INTERVAL_S = 0.15


def new_passwords() -> dict[str, str]:
    return {principal: secrets.token_urlsafe(24) for principal in PRINCIPALS}


class SecuredKafka(Kafka):
    """One broker. Clients log in by SCRAM, it and its controller by a password of their own."""

    passwords: Mapping[str, str]

    def __init__(self, passwords: Mapping[str, str]) -> None:
        super().__init__(1, 1)
        object.__setattr__(self, "passwords", passwords)

    @property
    def ports(self) -> tuple[Port, ...]:
        return (*super().ports, Port("kafka-between-brokers", "--kafka-port", 19092, 200))

    def prepare(self, place: Place) -> Sequence[Command]:
        credential = f"SCRAM-SHA-512=[name={ADMIN},password={self.passwords[ADMIN]}]"
        return [Command([*command.argv, "--add-scram", credential], command.env) for command in super().prepare(place)]

    def probe(self, place: Place) -> str | None:
        if closed := listens(place.ports[self.name]):
            return closed
        with AdminClient({**kafka_settings(ADMIN, self.passwords[ADMIN], place.ports), "log_level": 0}) as client:
            try:
                return None if self.node in client.list_topics(timeout=20).brokers else "it is not in its cluster"
            except KafkaException as error:
                return str(error)

    def _settings(self, place: Place) -> Mapping[str, str]:
        password = self.passwords[BROKER]
        plain = (
            f'org.apache.kafka.common.security.plain.PlainLoginModule required username="{BROKER}" '
            f'password="{password}" user_{BROKER}="{password}";'
        )
        listeners = {
            "CLIENTS": place.ports[self.name],
            "BROKERS": place.ports["kafka-between-brokers"],
            "CONTROLLER": place.ports[f"{self.name}-controller"],
        }
        addresses = [f"{name}://{HOST}:{port}" for name, port in listeners.items()]
        return {
            **super()._settings(place),
            "listeners": ",".join(addresses),
            "advertised.listeners": ",".join(addresses[:2]),
            "listener.security.protocol.map": ",".join(f"{name}:SASL_PLAINTEXT" for name in listeners),
            "inter.broker.listener.name": "BROKERS",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.clients.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "listener.name.brokers.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.brokers.plain.sasl.jaas.config": plain,
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": plain,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{ADMIN};User:{BROKER}",
        }


class SecuredRedis(Redis):
    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = passwords

    def prepare(self, place: Place) -> Sequence[Command]:
        commands = super().prepare(place)
        users = place.folder.conf(self.name) / "users.acl"
        write_text(users, redis.acl_file(self._passwords))
        configuration = place.folder.conf(self.name) / "redis.conf"
        write_text(configuration, f"{configuration.read_text()}aclfile {users}\n")
        return commands

    def probe(self, place: Place) -> str | None:
        return answers_line(place.ports["redis"], b"PING\r\n", b"-NOAUTH")


class SecuredElasticsearch(Elasticsearch):
    def __init__(self, passwords: Mapping[str, str], indices: Indices) -> None:
        self._passwords = passwords
        self._files = elasticsearch.files(passwords, indices)

    def prepare(self, place: Place) -> Sequence[Command]:
        commands = super().prepare(place)
        # Where it runs as another user, its configuration is in another folder as well.
        for conf in {place.folder.conf(self.name), Folder(place.folder.public()).conf(self.name)}:
            for name, text in self._files.items():
                write_text(conf / name, text)
                (conf / name).chmod(0o644)
        return commands

    def probe(self, place: Place) -> str | None:
        # Who does not log in may ask for the cluster's health.
        with ElasticsearchClient(
            f"http://{HOST}:{place.ports[self.name]}", max_retries=0, request_timeout=20
        ) as client:
            try:
                client.cluster.health(wait_for_status="yellow", timeout="0s")
            except Exception as error:  # Whatever it is, it does not answer as it should yet.
                return str(error) if isinstance(error, TransportError) else repr(error)
        return None

    def _settings(self, place: Place, site: Any) -> Mapping[str, str]:
        return {
            **super()._settings(place, site),
            "xpack.security.enabled": "true",
            "xpack.security.http.ssl.enabled": "false",
            "xpack.security.transport.ssl.enabled": "false",
            "xpack.security.authc.anonymous.roles": elasticsearch.HEALTH_ROLE,
            "xpack.security.authc.anonymous.authz_exception": "false",
        }


@dataclass(frozen=True)
class Secured:
    """The servers as they run, and what it takes to log in to them."""

    folder: Path
    ports: Mapping[str, int]
    namespace: str
    passwords: Mapping[str, str]
    private_key: str

    def connections(self, principal: str, **changes: Any) -> Connections:
        """What a principal is given: its own password everywhere, and a token only if it is the administrator."""
        password = self.passwords[principal]
        kafka = kafka_settings(principal, password, self.ports)
        warehouse = self.folder / "warehouse"
        settings: dict[str, Any] = {
            "kafka_bootstrap": kafka["bootstrap.servers"],
            "kafka_security_protocol": kafka["security.protocol"],
            "kafka_sasl_mechanism": kafka["sasl.mechanism"],
            "kafka_sasl_username": principal,
            "kafka_sasl_password": SecretStr(password),
            "registry_url": f"http://{HOST}:{self.ports['registry']}{CONFLUENT_API}",
            "redis_url": SecretStr(f"redis://{principal}:{password}@{HOST}:{self.ports['redis']}/0"),
            "elasticsearch_url": SecretStr(f"http://{HOST}:{self.ports['elasticsearch']}"),
            "elasticsearch_username": principal,
            "elasticsearch_password": SecretStr(password),
            "iceberg_catalog": f"sqlite:///{warehouse}/catalog.db",
            "iceberg_warehouse": f"file://{warehouse}",
            "namespace": self.namespace,
        }
        if principal in READ_HOLDERS:
            settings["kek_file"] = str(Folder(self.folder).kek)
        if principal == ADMIN:
            settings["registry_token"] = SecretStr(registry.token(self.private_key, principal))
        return Connections(**settings | changes)

    def environment(self, principal: str, **more: str) -> dict[str, str]:
        """The same for a process."""
        values = self.connections(principal).model_dump(exclude_none=True)
        plain = {
            f"DAYBOOK_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAYBOOK_")}
        return inherited | plain | {"DAYBOOK_ENV_FILE": os.devnull} | more

    def passwords_file(self) -> Path:
        path = self.folder / "passwords"
        path.write_text("".join(f"{name}={password}\n" for name, password in self.passwords.items()))
        return path


def kafka_settings(principal: str, password: str, ports: Mapping[str, int]) -> dict[str, Any]:
    return {
        "bootstrap.servers": f"{HOST}:{ports['kafka-1']}",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": principal,
        "sasl.password": password,
    }


def daybook(*arguments: str, env: Mapping[str, str], exit_code: int = 0) -> str:
    """Run the command line, and give back what it printed, errors as well."""
    command = [sys.executable, "-W", "error", "-m", "daybook", *arguments]
    ended = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
    )
    assert ended.returncode == exit_code, f"{' '.join(arguments)}: exit code {ended.returncode}\n{ended.stdout}"
    return ended.stdout


class Running:
    """Starts servers one after the other; all of them end with the block."""

    def __init__(self, root: Path, cleanup: ExitStack) -> None:
        self._cleanup = cleanup
        self.folder = Folder(root)
        self.passwords = new_passwords()
        self.namespace = f"t{uuid.uuid4().hex[:8]}"
        self.private_key, public_key = registry.new_key()
        kafka = SecuredKafka(self.passwords)
        self._servers: Mapping[str, Server] = {
            "kafka": kafka,
            "registry": Registry([kafka.name], registry.properties(public_key, self.passwords[REGISTRY])),
            "redis": SecuredRedis(self.passwords),
            "elasticsearch": SecuredElasticsearch(self.passwords, Indices(self.namespace)),
        }
        ports = choose([port for one in self._servers.values() for port in one.ports], {}, {}, free_ports=True)
        cluster_id = new_cluster_id()
        self.folder.create(Settings(1, cluster_id, ports))
        self.folder.warehouse.mkdir()
        cleanup.callback(self.folder.delete)
        sets = [wanted for one in self._servers.values() for wanted in one.artifacts]
        artifacts = fetch(tuple(sets), cache_folder(), Silent().download)
        self._place = Place(self.folder, ports, cluster_id, artifacts)
        self.secured = Secured(root, ports, self.namespace, self.passwords, self.private_key)

    def start(self, *names: str) -> None:
        """Start servers side by side, and wait until each does its work."""
        processes = {name: self._begin(self._servers[name]) for name in names}
        for name, process in processes.items():
            server = self._servers[name]
            log = self.folder.log(server.name)
            deadline = time.monotonic() + server.start_timeout_s
            while (why := server.probe(self._place)) is not None:
                assert process.poll() is None, f"{name} ended: {tail(log)}"
                assert time.monotonic() < deadline, f"{name} is not ready: {why}; {tail(log)}"
                time.sleep(_PROBE_INTERVAL_S)

    def log(self, name: str) -> str:
        return self.folder.log(self._servers[name].name).read_text(errors="replace")

    def _begin(self, server: Server) -> subprocess.Popen[bytes]:
        for command in server.prepare(self._place):
            assert self._spawn(server, command).wait(300) == 0, tail(self.folder.log(server.name))
        process = self._spawn(server, server.command(self._place))
        self._cleanup.callback(_end, process, server)
        return process

    def _spawn(self, server: Server, command: Command) -> subprocess.Popen[bytes]:
        log = self.folder.log(server.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", shim.__file__, str(os.getpid()), command.user or "", *command.argv],
                stdin=subprocess.DEVNULL if command.stdin is None else subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=dict(command.env),
                cwd=self.folder.temporary,
            )
        if process.stdin is not None and command.stdin is not None:
            process.stdin.write(command.stdin)
            process.stdin.flush()
            self._cleanup.callback(process.stdin.close)
        return process


def _end(process: subprocess.Popen[bytes], server: Server) -> None:
    process.terminate()
    try:
        process.wait(server.stop_timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@contextmanager
def running(root: Path) -> Iterator[Running]:
    """The servers `kafka`, `registry`, `redis` and `elasticsearch`, none of them started yet."""
    with ExitStack() as cleanup:
        yield Running(root, cleanup)
