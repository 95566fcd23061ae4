"""Elasticsearch: one node of the minimal distribution.

It refuses to run as root. For root it therefore runs as another user, who can reach neither root's files nor what lies
below a folder that is root's alone; so that user gets a folder with all that is needed (`Folder.public`).

Its own launcher is left out. That is a second JVM, which reads the configuration, starts the server and stays as its
parent: the server would outlive a kill, and half of the memory and of the time to start would be the launcher's. So the
server is told what the launcher tells it: its JVM options, and on its standard input its settings in the binary form
that the two share. Both belong to this one version; with another, the start fails and the log says why.
"""

import os
import pwd
import shutil
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.stack import probes
from deploy.stack.errors import StackError
from deploy.stack.folder import Folder, reachable, write_text
from deploy.stack.java import java, run_java
from deploy.stack.server import LONGEST_STOP_S, ArtifactSet, Command, Place, Port

ELASTICSEARCH_VERSION = "9.1.0"

# Who runs it when the stack is root's: a user that every system has and that owns nothing.
OTHER_USER = "nobody"

_MAIN = "org.elasticsearch.server/org.elasticsearch.bootstrap.Elasticsearch"

# To the console alone, which is the stack's log, and as the other servers there write.
_LOG4J = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c{1})%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

# What its own launcher sets, each for a reason that its documentation gives.
_LAUNCHERS_OPTIONS = (
    "-Xss1m",
    "-Dfile.encoding=UTF-8",
    "-Djava.locale.providers=CLDR",
    "-XX:-OmitStackTraceInFastThrow",
    "-Dio.netty.noUnsafe=true",
    "-Dio.netty.noKeySetOptimization=true",
    "-Dio.netty.recycler.maxCapacityPerThread=0",
    "-Dlog4j.shutdownHookEnabled=false",
    "-Dlog4j2.disable.jmx=true",
    "-Dorg.apache.lucene.store.defaultReadAdvice=normal",
    "-Des.distribution.type=zip",
    "-Des.java.type=ES_JAVA_HOME",
    "--enable-native-access=org.elasticsearch.nativeaccess,org.apache.lucene.core,ALL-UNNAMED",
    "--add-opens=org.apache.lucene.core/org.apache.lucene.codecs.lucene99=org.elasticsearch.server",
    *(
        f"--add-opens=org.apache.lucene.backward_codecs/org.apache.lucene.backward_codecs.lucene{version}"
        "=org.elasticsearch.server"
        for version in (90, 91, 92, 94, 95)
    ),
    # It limits what its modules may do by an agent that it attaches to itself.
    "-Des.entitlements.enabled=true",
    "-XX:+EnableDynamicAgentLoading",
    "-Djdk.attach.allowAttachSelf=true",
    "--add-exports=java.base/org.elasticsearch.entitlement.bridge"
    "=org.elasticsearch.entitlement,java.logging,java.net.http,java.naming,jdk.net",
    "--add-modules=jdk.net,jdk.management.agent,ALL-MODULE-PATH",
)


@dataclass(frozen=True, slots=True)
class _Site:
    """Where it runs: as whom, in which folder, from which distribution and on which Java."""

    user: str | None
    folder: Folder
    home: Path
    java: Path


class Elasticsearch:
    """One node, which is a cluster by itself."""

    name = "elasticsearch"
    ports = (
        Port("elasticsearch", "--elasticsearch-port", 19200),
        Port("elasticsearch-transport", "--elasticsearch-port", 19200, 100),
    )
    artifacts = (
        ArtifactSet(
            "elasticsearch",
            (f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:zip:{ELASTICSEARCH_VERSION}",),
            unpack=True,
        ),
    )
    needs: tuple[str, ...] = ()
    # 6 s on two cores, four times that when all start side by side; with data, its shards are recovered as well.
    start_timeout_s = 200.0
    # It takes half a second, and seconds when it has much to write.
    stop_timeout_s = LONGEST_STOP_S

    def prepare(self, place: Place) -> Sequence[Command]:
        site = _site(place)
        folders = (site.folder.data(self.name), site.folder.temporary, site.folder.log(self.name).parent)
        for path in folders:
            path.mkdir(parents=True, exist_ok=True)
        # The configuration stays the caller's, so that the server can't change it.
        settings = site.folder.conf(self.name) / "log4j2.properties"
        write_text(settings, _LOG4J)
        if site.user is not None:
            _hand_over(site, folders, settings, _distribution(place))
        return ()

    def command(self, place: Place) -> Command:
        site = _site(place)
        logs = site.folder.log(self.name).parent
        options = [
            "-Xms512m",
            "-Xmx512m",
            "-XX:MaxDirectMemorySize=256m",
            # On two cores that it shares, a collector with threads of its own takes more than it gives.
            "-XX:+UseSerialGC",
            f"-XX:ErrorFile={logs}/{self.name}-crash-%p.log",
            f'-Xlog:gc*:file="{logs}/{self.name}-gc.log":utctime,level,tags:filecount=2,filesize=4m',
            *_LAUNCHERS_OPTIONS,
            f"-Des.path.home={site.home}",
            f"--patch-module=java.base={site.home}/lib/entitlement-bridge/"
            f"elasticsearch-entitlement-bridge-{ELASTICSEARCH_VERSION}.jar",
            f"--module-path={site.home}/lib",
        ]
        plain = run_java(site.folder.temporary, options, ["-m", _MAIN], program=site.java)
        return Command(
            plain.argv,
            # It looks for this one itself, to be sure that native code is not unpacked to where it may not be run.
            {**plain.env, "LIBFFI_TMPDIR": str(site.folder.temporary)},
            site.user,
            server_arguments(self._settings(place, site), str(site.folder.conf(self.name)), str(logs)),
        )

    def probe(self, place: Place) -> str | None:
        # Red while its shards are being recovered. Its root, `GET /`, is none of the minimal distribution's.
        return probes.answers_http(place.ports[self.name], "/_cluster/health?wait_for_status=yellow&timeout=0s")

    def environment(self, place: Place) -> Mapping[str, str]:
        return {"DAYBOOK_ELASTICSEARCH_URL": f"http://{probes.HOST}:{place.ports[self.name]}"}

    def _settings(self, place: Place, site: _Site) -> Mapping[str, str]:
        return {
            "cluster.name": "daybook",
            "node.name": self.name,
            "path.home": str(site.home),
            "path.data": str(site.folder.data(self.name)),
            "path.logs": str(site.folder.log(self.name).parent),
            "discovery.type": "single-node",
            "network.host": probes.HOST,
            "http.port": str(place.ports[self.name]),
            "transport.port": str(place.ports["elasticsearch-transport"]),
            "xpack.security.enabled": "false",
            # A disk that is nearly full would make the indices read-only, although gigabytes are left.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            # The collector leaves garbage until it needs the memory; counted as used, it would turn requests away.
            "indices.breaker.total.use_real_memory": "false",
        }


def server_arguments(settings: Mapping[str, str], conf: str, logs: str) -> bytes:
    """Return what the server reads from its standard input: Elasticsearch's `ServerArgs`, in its transport encoding."""
    daemonize, quiet, pid_file = b"\0", b"\0", b"\0"
    # A keystore of format 7: no password, no file's bytes, no entries, not closed.
    keystore = _string("org.elasticsearch.common.settings.KeyStoreWrapper") + struct.pack(">i", 7) + b"\0\0\0\0"
    # A zero before each value: it is a string.
    entries = b"".join(_string(name) + b"\0" + _string(value) for name, value in sorted(settings.items()))
    return b"".join(
        (daemonize, quiet, pid_file, keystore, _number(len(settings)), entries, _string(conf), _string(logs))
    )


def _string(text: str) -> bytes:
    # Counted and encoded by UTF-16 code units: a character beyond them is written as two, of three bytes each.
    units = text.encode("utf-16-be", "surrogatepass")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return _number(len(codes)) + b"".join(chr(code).encode("utf-8", "surrogatepass") for code in codes)


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth set."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def _distribution(place: Place) -> Path:
    (unpacked,) = place.artifacts[Elasticsearch.name]
    return unpacked / f"elasticsearch-{ELASTICSEARCH_VERSION}"


def _site(place: Place) -> _Site:
    if os.geteuid() != 0:
        return _Site(None, place.folder, _distribution(place), java())
    folder = Folder(place.folder.public())
    home, runtime = _distribution(place), java().resolve().parents[1]
    return _Site(
        OTHER_USER,
        folder,
        home if reachable(home) else folder.root / "home",
        (runtime if reachable(runtime) else folder.root / "java") / "bin" / "java",
    )


def _hand_over(site: _Site, folders: Sequence[Path], settings: Path, distribution: Path) -> None:
    """Give the other user its folders, a way to them and to its settings, and copies of what it can't reach."""
    # The caller's umask may have made them for itself alone.
    settings.chmod(0o644)
    for path in (*folders, settings):
        for parent in path.parents[: len(path.relative_to(site.folder.root).parts) - 1]:
            parent.chmod(0o755)
    for target, source in ((site.home, distribution), (site.java.parents[1], java().resolve().parents[1])):
        if target.is_relative_to(site.folder.root) and not source.is_relative_to(site.folder.root):
            shutil.rmtree(target, ignore_errors=True)
            _copy_for_all(source, target)
    try:
        user = pwd.getpwnam(OTHER_USER)
        for path in folders:
            os.chown(path, user.pw_uid, user.pw_gid)
            path.chmod(0o700)
    except (KeyError, OSError) as error:
        raise StackError(
            f"Elasticsearch refuses to run as root, and cannot run as {OTHER_USER} here ({error}): "
            "start the stack as an ordinary user"
        ) from error


def _copy_for_all(source: Path, target: Path) -> None:
    """Copy a folder so that everybody can read it, by hard links where that does: it is some 100 MB."""

    def copy(file: str, place: str) -> None:
        mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 - copytree's own paths
        for_all = mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6
        if mode == for_all:
            try:
                os.link(file, place)
            except OSError:
                pass  # Another file system, or one without hard links.
            else:
                return
        shutil.copyfile(file, place)
        Path(place).chmod(for_all)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    for path in (target, *target.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
