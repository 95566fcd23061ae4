"""The compose stack in a folder of its own: started, asked, broken and removed by tests.

The developer's own stack, `.env` and `.secrets/` are left alone: project, ports, images and volumes have other names.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values

from deploy.stack.ports import choose
from deploy.stack.server import Port
from schemas.connections import Connections
from tests.processes import connections_to, until

ROOT: Final = Path(__file__).parents[2]

DOCKER: Final = shutil.which("docker") or "docker"

OURS: Final = (
    *("command-service", "projector-balances", "projector-search", "projector-analytics", "projector-activity"),
    "auditor",
)
SERVERS: Final = ("kafka", "registry", "elasticsearch", "redis")

UP_TIMEOUT_S: Final = 900.0
"""A start takes a minute on two idle cores; on a machine that other tests keep busy, several times that."""

LOOK_S: Final = 0.5
"""Between two questions to the engine, each of which starts programs that what is awaited has to wait for."""

_PUBLISHED: Final = (
    *("KAFKA", "KAFKA_2", "KAFKA_3", "REGISTRY", "ELASTICSEARCH", "REDIS", "ACTIVITY"),
    *("PROMETHEUS", "GRAFANA"),
)
_ATTEMPTS: Final = 5
"""A port that was free when it was chosen may be taken by the time that its container starts."""

_NEEDED: Final = (
    *("docker-compose.yml", "pyproject.toml", "README.md", "LICENSE"),
    *("command_service", "daybook", "deploy", "projectors", "schemas"),
)
"""What the compose files and the image are made from."""


class NotUp(Exception):
    """The stack did not come up. The message has what its containers said."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine describes it."""

    described: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.described["Id"])

    @property
    def service(self) -> str:
        return str(self.described["Config"]["Labels"]["com.docker.compose.service"])

    @property
    def state(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.described["State"]
        return found

    @property
    def running(self) -> bool:
        return bool(self.state["Running"])

    @property
    def healthy(self) -> bool:
        return self.running and self.state.get("Health", {}).get("Status") == "healthy"

    @property
    def restarts(self) -> int:
        """How often the engine itself has started it again."""
        return int(self.described["RestartCount"])


class Composed:
    """One project. `files` are the compose files, from the project's top; `version` is that of our images."""

    def __init__(
        self,
        folder: Path,
        project: str,
        files: Sequence[str] = ("docker-compose.yml",),
        *,
        version: str = "none",
        **variables: str,
    ) -> None:
        self.folder = folder
        self.project = project
        self.started_in_s = 0.0
        """From nothing, with images at hand."""
        self.busy_before = os.getloadavg()[0]
        """How many processes others had running, about, in the minute before."""
        self._files = files
        self._version = version
        self._variables = variables
        self._choose_ports()

    def make_folder(self) -> None:
        """A copy of what the stack is made from, without anybody's secrets."""
        self.folder.mkdir()
        for name in _NEEDED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.folder / name)

    def run(
        self, *arguments: str, timeout_s: float = 120.0, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker compose`; its output and its errors are both in `stdout`."""
        command = [DOCKER, "compose", *(part for file in self._files for part in ("-f", file)), *arguments]
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or ended.returncode == 0, f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout}"
        return ended

    def up(self, *options: str, timeout_s: float = UP_TIMEOUT_S, **variables: str) -> float:
        """Start it, wait until it is healthy, and say how many seconds that took.

        Raises: `NotUp`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            began = time.monotonic()
            try:
                ended = self.run("up", "--wait", *options, timeout_s=timeout_s, check=False, **variables)
            except subprocess.TimeoutExpired:
                raise NotUp(f"not up within {timeout_s:.0f} s\n{self.described()}") from None
            took_s = time.monotonic() - began
            if ended.returncode == 0:
                return took_s
            taken = "port is already allocated" in ended.stdout or "address already in use" in ended.stdout
            if not taken or attempt == _ATTEMPTS:
                raise NotUp(f"exit code {ended.returncode}\n{ended.stdout[-4000:]}\n{self.described()}")
            self._choose_ports()
        raise AssertionError("unreachable")

    def remove(self) -> None:
        """Stop it and delete its containers, volumes and networks."""
        everything = ("--profile", "tools", "--profile", "observability")
        self.run(*everything, "down", "--volumes", "--remove-orphans", timeout_s=300)

    def containers(self, *services: str, stopped: bool = False) -> list[Container]:
        """The containers of these services, or of all, without those of `docker compose run`."""
        found = docker("ps", *(["--all"] if stopped else []), "--quiet", "--no-trunc", *self._labelled()).split()
        described = json.loads(docker("inspect", *found)) if found else []
        all_of_them = [Container(one) for one in described]
        return [one for one in all_of_them if not services or one.service in services]

    def container(self, service: str) -> Container:
        (found,) = self.containers(service)
        return found

    def all_healthy(self) -> bool:
        """Whether each server and each service runs and says of itself that it does its work."""
        found = self.containers(*SERVERS, *OURS)
        return {one.service for one in found} == {*SERVERS, *OURS} and all(one.healthy for one in found)

    def wait_healthy(self, timeout_s: float = 600.0) -> None:
        until(self.all_healthy, f"healthy stack: {self.health()}", timeout_s, every_s=LOOK_S)

    def health(self) -> dict[str, str]:
        """What each container is, in a word or two."""
        return {
            one.described["Name"]: f"{one.state['Status']} {one.state.get('Health', {}).get('Status', '')}".strip()
            for one in self.containers(stopped=True)
        }

    def described(self) -> str:
        """What there is to see when it does not come up."""
        try:
            logs = self.run("logs", "--no-color", "--tail", "40", timeout_s=120, check=False).stdout
            return f"{self.health()}\n{logs}"
        except (subprocess.SubprocessError, OSError) as error:
            return f"and the engine does not say why: {error}"

    def config(self, *profiles: str) -> dict[str, Any]:
        """The compose files as the program understands them, everything filled in."""
        named = [part for profile in profiles for part in ("--profile", profile)]
        found: dict[str, Any] = json.loads(self.run(*named, "config", "--format", "json").stdout)
        return found

    def logs(self, container: Container) -> list[str]:
        """What a container has written, line by line."""
        ended = subprocess.run(
            [DOCKER, "logs", container.id],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
        return ended.stdout.splitlines()

    def port(self, name: str) -> str:
        """Where something is published on this machine: a part of the name `DAYBOOK_PORT_<name>`."""
        return self._ports[name]

    def image(self, name: str) -> str:
        """One of our two images: `service` or `analytics`."""
        return _image(name, self._version)

    def env_file(self, who: str) -> Path:
        """The dotenv file of a person or program on this machine: `admin`, `operator` or `client`."""
        return self.folder / ".secrets" / who / "env"

    def connections(self, who: str, **changed: str | None) -> Connections:
        """As whom to reach the servers from this machine. Services are given the addresses that the client has."""
        variables = dict(self._read(self.env_file("client")))
        own = dict(self._read(self.env_file(who)))
        if who not in ("admin", "operator", "client"):
            for server in ("KAFKA_BOOTSTRAP", "REGISTRY_URL", "ELASTICSEARCH_URL"):
                own[f"DAYBOOK_{server}"] = variables[f"DAYBOOK_{server}"]
            if redis_url := own.get("DAYBOOK_REDIS_URL"):
                address = variables["DAYBOOK_REDIS_URL"].rpartition("@")[2]
                own["DAYBOOK_REDIS_URL"] = f"{redis_url.rpartition('@')[0]}@{address}"
        for field, value in changed.items():
            own.pop(f"DAYBOOK_{field.upper()}", None)
            if value is not None:
                own[f"DAYBOOK_{field.upper()}"] = value
        return connections_to(own)

    def daybook(self, env_file: Path, *arguments: str, exit_code: int = 0, timeout_s: float = 240.0) -> str:
        """Run our command line on this machine as whom the file says, and give back all that it printed."""
        inherited = {name: value for name, value in os.environ.items() if not name.upper().startswith("DAYBOOK_")}
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-m", "daybook", *arguments],
            env=inherited | {"DAYBOOK_ENV_FILE": str(env_file), "DAYBOOK_USER": "ada"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert ended.returncode == exit_code, f"{' '.join(arguments)}: exit code {ended.returncode}\n{ended.stdout}"
        return ended.stdout

    def in_container(self, *arguments: str, timeout_s: float = 420.0) -> str:
        """Run our command line in a container, as the operator; it must succeed."""
        return self.run("run", "--rm", "-T", "daybook", *arguments, timeout_s=timeout_s).stdout

    def verify_models(self) -> None:
        """Every read model is what the log says, by the command line's own comparison."""
        said = self.in_container("verify", "models", "--timeout", "300")
        for model in ("balances", "search", "analytics"):
            assert f"{model}: equal" in said, said

    def crash(self, container: Container) -> None:
        """Kill a container's first process as the kernel does when memory runs out.

        `docker kill` would not do: the engine takes it for somebody's wish that the container be stopped, and does not
        apply the restart policy. And in its own container the first process is out of SIGKILL's reach. So the signal
        comes from a container that sees the machine's processes.
        """
        docker(
            *("run", "--rm", "--pid", "host", "--network", "none", "--user", "0:0", "--entrypoint", "/bin/bash"),
            *(self.image("service"), "-c", f"kill -KILL {int(container.state['Pid'])}"),
        )

    def kafka_transactions(self, *arguments: str) -> list[list[str]]:
        """The rows that `kafka-transactions.sh` prints, without their head."""
        password = self.connections("admin").kafka()["sasl.password"]
        login = (
            "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
            "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required "
            f'username="admin" password="{password}";\n'
        )
        tool = ("/opt/kafka/bin/kafka-transactions.sh", "--bootstrap-server", "kafka:19091")
        inside = ("exec", "-i", self.container("kafka").id)
        said = docker(*inside, *tool, "--command-config", "/dev/stdin", *arguments, stdin=login)
        return [line.split() for line in said.splitlines()[1:] if line.split()]

    def _choose_ports(self) -> None:
        ports = choose([Port(name, name, 0) for name in _PUBLISHED], {}, {}, free_ports=True)
        self._ports = {name: str(number) for name, number in ports.items()}

    def environment(self) -> dict[str, str]:
        """What compose, and scripts around it, are run with."""
        # What stands in the environment wins over the project's .env, so nothing of the developer's may get in.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DAYBOOK_", "COMPOSE_", "OTEL_", "KAFKA_"))
        }
        ports = {f"DAYBOOK_PORT_{name}": number for name, number in self._ports.items()}
        return {
            **inherited,
            "COMPOSE_PROJECT_NAME": self.project,
            # By which the stack tells programs on this machine where certificates are.
            "PWD": str(self.folder),
            "DAYBOOK_VERSION": self._version,
            **ports,
            **self._variables,
        }

    def _labelled(self) -> Iterator[str]:
        for label in (f"project={self.project}", "oneoff=False"):
            yield from ("--filter", f"label=com.docker.compose.{label}")

    @staticmethod
    def _read(path: Path) -> Iterator[tuple[str, str]]:
        for name, value in dotenv_values(path, interpolate=False).items():
            if value is not None:
                yield name, value


def _image(name: str, version: str) -> str:
    return f"localhost/daybook/{name}:{version}"


def remove_images(version: str) -> None:
    """Delete our images of a version, if they are there."""
    for name in ("service", "analytics"):
        subprocess.run([DOCKER, "image", "rm", _image(name, version)], capture_output=True, timeout=120, check=False)


def docker(*arguments: str, timeout_s: float = 120.0, stdin: str = "") -> str:
    """What a `docker` command prints; it must succeed."""
    ended = subprocess.run(
        [DOCKER, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert ended.returncode == 0, f"docker {' '.join(arguments)}: exit code {ended.returncode}\n{ended.stderr}"
    return ended.stdout
