"""Asking a server on the loopback whether it works. Each returns None for yes, else why not yet."""

import http.client
import socket

HOST = "127.0.0.1"
# A healthy server on the loopback answers within milliseconds; a probe must not hold up the next one.
TIMEOUT_S = 2.0


def listens(port: int) -> str | None:
    """Say whether anything accepts connections on the port."""
    try:
        socket.create_connection((HOST, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    return None


def answers_http(port: int, path: str) -> str | None:
    """Say whether GET is answered with 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"GET {path} on port {port}: {error}"
    finally:
        connection.close()
    return None if status == http.client.OK else f"GET {path} on port {port}: status {status}"


def answers_line(port: int, request: bytes, expected: bytes) -> str | None:
    """Say whether a one-line request is answered by a line that starts as expected."""
    try:
        with socket.create_connection((HOST, port), timeout=TIMEOUT_S) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").readline()
    except OSError as error:
        return f"port {port}: {error.strerror or error}"
    return None if answer.startswith(expected) else f"port {port}: answered {answer!r}"
