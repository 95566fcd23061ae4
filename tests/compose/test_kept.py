"""What stays when the stack goes down and comes up again, and what a changed password does."""

from __future__ import annotations

import re
import secrets
import subprocess
import uuid
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from elasticsearch import AuthenticationException, Elasticsearch
from redis import Redis
from redis.exceptions import AuthenticationError

from daybook import Balance, Client
from deploy.compose.secrets import password_variable
from schemas.connections import Connections
from tests.compose.composed import Composed

ACCOUNTS = 30


def balances(connections: Connections, accounts: list[str]) -> list[Balance]:
    with Client(connections, user_id="ada", timeout_s=90) as client:
        return list(client.balances(accounts))


def volumes(stack: Composed, *arguments: object) -> None:
    """Copy the volumes, or make them from a copy, as docs/OPERATIONS.md says."""
    script = stack.folder / "deploy" / "compose" / "volumes.sh"
    done = subprocess.run(
        [script, *map(str, arguments)],
        env=stack.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def with_new_password(env: Path, principal: str) -> str:
    """Change a principal's line as somebody with an editor does, and return the new password."""
    new = secrets.token_hex(24)
    changed, lines = re.subn(
        rf"^{password_variable(principal)}=.*$", f"{password_variable(principal)}={new}", env.read_text(), flags=re.M
    )
    assert lines == 1
    env.write_text(changed)
    return new


def test_every_balance_is_there_again_from_a_copy_and_a_changed_password_counts(stack: Composed) -> None:
    accounts = [f"D-{uuid.uuid4().hex[:12]}" for _ in range(ACCOUNTS)]
    client_before = stack.connections("client")
    with Client(client_before, user_id="ada", timeout_s=90) as client:
        for number, account in enumerate(accounts, start=1):
            client.open_account(account, "EUR", "Ada Lovelace")
            reply = client.deposit(account, f"{number}.00 EUR")
            client.balance(account, at_least=reply.sequence)
    before = balances(client_before, accounts)
    assert [balance.money.amount_minor for balance in before] == [100 * n for n in range(1, ACCOUNTS + 1)]

    copy = stack.folder / "copy"
    volumes(stack, "backup", copy)
    stack.wait_healthy()
    with Client(client_before, user_id="ada", timeout_s=90) as client:
        client.deposit(accounts[0], "1000.00 EUR")
    stack.run("--profile", "*", "down", "--volumes", timeout_s=300)
    assert stack.containers(stopped=True) == []
    volumes(stack, "restore", copy)
    new = with_new_password(stack.folder / ".env", "client")
    env = (stack.folder / ".env").read_text()
    stack.up()

    assert (stack.folder / ".env").read_text() == env
    client_now = stack.connections("client")
    assert client_now.kafka()["sasl.password"] == new
    assert balances(client_now, accounts) == before
    with Client(client_now, user_id="ada", timeout_s=90) as client:
        # The write side, too, goes on where it was.
        assert client.deposit(accounts[0], "1.00 EUR").sequence == before[0].sequence + 1
        assert client.account(accounts[1], at_least=2).money.amount_minor == 200
    # Nobody else's was touched.
    assert balances(stack.connections("operator"), accounts[1:]) == before[1:]
    old = client_before.kafka()["sasl.password"]
    assert isinstance(old, str)
    assert_refused(client_now, old)
    stack.verify_models()


def assert_refused(now: Connections, old_password: str) -> None:
    """The password that was changed does not let the client into any server."""
    login = {**now.kafka(), "sasl.password": old_password, "log_level": 0}
    with AdminClient(login) as admin, pytest.raises(KafkaException):
        admin.list_topics(timeout=10)
    address = now.redis().rpartition("@")[2]
    with Redis.from_url(f"redis://client:{old_password}@{address}") as redis, pytest.raises(AuthenticationError):
        redis.ping()
    search = now.elasticsearch() | {"basic_auth": ("client", old_password)}
    with Elasticsearch(**search) as client, pytest.raises(AuthenticationException):
        client.search(index=now.indices.accounts)
