"""The image's recipe keeps to the rules that make an image safe, and the project has no secret in it."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from deploy.access.registry import new_key
from deploy.compose.secrets import passwords

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/image/Dockerfile"

_FROM = re.compile(r"(?P<image>\S+)(?:\s+AS\s+(?P<stage>\S+))?", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|api_?key", re.IGNORECASE)


@dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile: its image or the stage it goes on from, and its instructions with their arguments."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each instruction in capitals, with its arguments on one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        word, _, arguments = line.strip().partition(" ")
        if word:
            yield word.upper(), " ".join(arguments.split())


def stages(text: str) -> dict[str, Stage]:
    """The stages by name, with the defaults of those `ARG`s that come before the first."""
    defaults: dict[str, str] = {}
    found: dict[str, list[tuple[str, str]]] = {}
    bases: dict[str, str] = {}
    name = ""
    for word, arguments in instructions(text):
        if word == "FROM":
            match = _FROM.fullmatch(arguments)
            assert match is not None, arguments
            name = match["stage"] or match["image"]
            bases[name] = _VARIABLE.sub(lambda v: defaults[v[1] or v[2]], match["image"])
            found[name] = []
        elif not name:
            assert word == "ARG", f"{word} before the first FROM"
            key, _, value = arguments.partition("=")
            defaults[key] = value
        else:
            found[name].append((word, arguments))
    return {stage: Stage(stage, bases[stage], tuple(found[stage])) for stage in found}


def complaints(text: str) -> list[str]:
    """What is wrong with a Dockerfile."""
    known = stages(text)
    return [
        *(complaint for stage in known.values() for complaint in _of_stage(stage, known)),
        *(f"{stage} is delivered and runs as root" for stage in delivered(known) if not _is_non_root(stage, known)),
        *(
            f"{stage} is delivered without a HEALTHCHECK"
            for stage in delivered(known)
            if not _all(stage, known, "HEALTHCHECK")
        ),
    ]


def delivered(known: dict[str, Stage]) -> list[str]:
    """The stages that nothing goes on from and nothing is copied from: what people run."""
    used = {stage.base for stage in known.values()}
    for stage in known.values():
        for word, arguments in stage.instructions:
            if word == "COPY" and (source := re.search(r"--from=(\S+)", arguments)):
                used.add(source[1])
    return [name for name in known if name not in used]


def _of_stage(stage: Stage, known: dict[str, Stage]) -> Iterator[str]:
    if stage.base not in known and stage.base != "scratch":
        tag = re.search(r":([^/@]+)$", stage.base)
        if tag is None or tag[1] == "latest":
            yield f"{stage.name}: {stage.base} has no version"
        elif not re.search(r"\d", tag[1]):
            yield f"{stage.name}: {stage.base} has a tag that moves"
    for word, arguments in stage.instructions:
        match word:
            case "ADD":
                yield f"{stage.name}: ADD {arguments}: COPY does not fetch or unpack"
            case "CMD" | "ENTRYPOINT":
                if not _is_exec_form(arguments):
                    yield f"{stage.name}: {word} {arguments} runs under a shell, which passes no signals on"
            case "RUN":
                yield from (f"{stage.name}: {complaint}" for complaint in _of_run(arguments))
            case "ARG" | "ENV":
                for name in re.findall(r"(?:^|\s)(\w+)(?==|\s|$)", arguments):
                    if _SECRET_NAME.search(name):
                        yield f"{stage.name}: {word} {name} would stay in the image's history"
            case "EXPOSE" | "MAINTAINER" | "ONBUILD":
                yield f"{stage.name}: {word} is not used here"
            case _:
                pass


def _of_run(arguments: str) -> Iterator[str]:
    if re.search(r"\bapt(-get)?\s+(-\S+\s+)*install\b", arguments):
        if not re.search(r"rm -rf? /var/lib/apt/lists", arguments):
            yield "apt without removing its lists"
        if "--no-install-recommends" not in arguments:
            yield "apt with recommended packages"
    if re.search(r"\b(apt-get|apt)\s+(dist-)?upgrade\b", arguments):
        yield "apt upgrade: another base image instead"
    if re.search(r"\b(sudo|curl|wget)\b", arguments):
        yield "sudo, or a download without a checksum"
    if re.search(r"\bpip\b.*\binstall\b", arguments) and not re.search(r"--require-hashes|--no-deps", arguments):
        yield "pip install of what no lock names"
    if re.search(r"\bchmod\s+(-R\s+)?(777|a\+w|o\+w)", arguments):
        yield "files that everybody may change"


def _is_exec_form(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), list)
    except ValueError:
        return False


def _all(name: str, known: dict[str, Stage], word: str) -> list[str]:
    """An instruction's arguments in a stage and in those that it goes on from, the last one last."""
    stage = known[name]
    before = _all(stage.base, known, word) if stage.base in known else []
    return [*before, *(arguments for found, arguments in stage.instructions if found == word)]


def _is_non_root(name: str, known: dict[str, Stage]) -> bool:
    users = _all(name, known, "USER")
    # By number, since an orchestrator that forbids root cannot look names up.
    return bool(users) and re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]) is not None


def test_our_dockerfile_keeps_to_the_rules() -> None:
    text = DOCKERFILE.read_text()
    assert delivered(stages(text)) == ["service", "analytics"]
    assert complaints(text) == []


GOOD = 'FROM python:3.13-slim AS only\nUSER 10001:10001\nHEALTHCHECK CMD true\nCMD ["serve"]\n'


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("python:3.13-slim", "python", "has no version"),
        ("python:3.13-slim", "python:latest", "has no version"),
        ("python:3.13-slim", "registry:5000/python", "has no version"),
        ("python:3.13-slim", "python:slim", "a tag that moves"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001", "USER 0", "runs as root"),
        ("USER 10001:10001", "USER 10001\nUSER 0:0", "runs as root"),
        ("USER 10001:10001\n", "", "runs as root"),
        ("HEALTHCHECK CMD true\n", "", "without a HEALTHCHECK"),
        ('CMD ["serve"]', "CMD serve", "under a shell"),
        ("USER", "ADD https://example.org/x.tar /\nUSER", "COPY does not fetch"),
        ("USER", "RUN apt-get update && \\\n  apt-get install -y gcc\nUSER", "without removing its lists"),
        ("USER", "RUN pip install requests\nUSER", "no lock names"),
        ("USER", "ENV API_TOKEN=abc\nUSER", "stay in the image's history"),
        ("USER", "ARG DB_PASSWORD\nUSER", "stay in the image's history"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule_is_found(before: str, after: str, complaint: str) -> None:
    assert complaints(GOOD) == []
    found = complaints(GOOD.replace(before, after, 1))
    assert any(complaint in one for one in found), found


def test_only_what_is_run_gets_into_the_image() -> None:
    ignored = (ROOT / "deploy/image/Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*", "what is not named must stay out: .env, .secrets and whatever else lies here"
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert let_in == {
        *("pyproject.toml", "README.md", "LICENSE"),
        *("command_service", "daybook", "deploy", "projectors", "schemas"),
    }


# A scan for secrets.

_SECRETS = {
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*[A-Za-z0-9+/=]{16}"),
    "a signed token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a password that the compose stack made": re.compile(r"(?<![0-9a-fA-F])[0-9a-f]{48}(?![0-9a-fA-F])"),
    "a password of the compose stack": re.compile(r"^DAYBOOK_PASSWORD_\w+=(?!\$)\S+", re.MULTILINE),
    "a cloud's key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a hoster's token": re.compile(r"\b(?:gh[pousr]_\w{30,}|glpat-[\w-]{20,}|xox[abpr]-[\w-]{20,})"),
}
_ASSIGNED = re.compile(
    r"(?:password|passwd|secret|token|api_?key)\w*[\"']?\s*[=:]\s*[\"']?([A-Za-z0-9+/_=-]{16,})", re.IGNORECASE
)
_BITS = 3.4
"""Of entropy to a character: random hexadecimal digits have nearly 4, a name or a sentence in its place has letters
alone."""


def secrets_in(text: str) -> set[str]:
    """The kinds of secret that a text has in it."""
    found = {kind for kind, pattern in _SECRETS.items() if pattern.search(text)}
    for value in _ASSIGNED.findall(text):
        if sum(c.isdigit() for c in value) >= 3 and _bits(value) > _BITS:
            found.add("a random value for a password")
    return found


def _bits(text: str) -> float:
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a Git checkout: which files belong to the project is not known")
    # New files too: they are what the next commit takes in.
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_file_of_the_project_has_a_secret_in_it() -> None:
    files = _files()
    assert len(files) > 100
    found = {str(path.relative_to(ROOT)): secrets_in(path.read_bytes().decode(errors="replace")) for path in files}
    assert {name: kinds for name, kinds in found.items() if kinds} == {}


@pytest.mark.parametrize("name", [".env", ".secrets/client/env", ".secrets/keys/registry.key"])
def test_git_ignores_what_the_compose_stack_makes(name: str) -> None:
    _files()
    git = shutil.which("git") or "git"
    assert subprocess.run([git, "check-ignore", "--quiet", name], cwd=ROOT, check=False).returncode == 0


def test_the_scan_finds_what_the_compose_stack_makes(tmp_path: Path) -> None:
    made = passwords(tmp_path)
    assert "a password of the compose stack" in secrets_in((tmp_path / ".env").read_text())
    for password in made.values():
        assert "a password that the compose stack made" in secrets_in(f"client:{password}@redis")
    private, public = new_key()
    assert secrets_in(private) == {"a private key"}
    assert secrets_in(public) == set()
    token = jwt.encode({"alg": "RS256"}, {"sub": "admin", "roles": ["sr-admin"]}, RSAKey.import_key(private))
    assert "a signed token" in secrets_in(f"DAYBOOK_REGISTRY_TOKEN={token}")
    random = hashlib.sha256(b"any").hexdigest()[:32]
    assert secrets_in(f'password = "{random}"') == {"a random value for a password"}
    assert secrets_in('password = "not-the-password"\ntoken = secrets.token_hex(16)') == set()
