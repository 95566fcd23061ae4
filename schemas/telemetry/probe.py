"""`python -m schemas.telemetry.probe PORT`: asks a process of this machine whether it is ready.

For a container's health check, every few seconds: it imports nothing but a part of the standard library, and prints the
reason. Exit codes: 0 ready, 1 not ready or not there, 2 wrong usage.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Final

_TIMEOUT_S: Final = 5.0
"""An endpoint answers within milliseconds, unless the machine is overloaded."""


def main(arguments: list[str]) -> int:
    """Ask 127.0.0.1 at the port that the only argument names."""
    if len(arguments) != 1 or not (arguments[0].isascii() and arguments[0].isdigit()):
        print("usage: python -m schemas.telemetry.probe PORT", file=sys.stderr)
        return 2
    connection = http.client.HTTPConnection("127.0.0.1", int(arguments[0]), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, OverflowError, http.client.HTTPException, ValueError) as error:
        print(f"port {arguments[0]} gives no answer: {type(error).__name__}: {error}")
        return 1
    finally:
        connection.close()
    if response.status == http.client.OK:
        print("ready")
        return 0
    print(answer.get("reason") if isinstance(answer, dict) else answer)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
