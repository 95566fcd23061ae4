"""`python -m daybook.tied PARENT PROGRAM...` becomes PROGRAM, tied to the life of the process PARENT.

When the parent ends, however it ends, Linux sends the program SIGTERM, on which Daybook's services stop in an orderly
way. The kernel keeps the request across `exec`. It counts the thread that forked as the parent: whoever starts
programs this way does so from a thread that lives as long as they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main(arguments: list[str]) -> None:
    parent, program = int(arguments[0]), arguments[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    # The parent may have ended before the kernel was told; then nobody would ever be sent anything.
    if os.getppid() != parent:
        sys.exit(f"process {parent}, for which {program[0]} was to run, has ended")
    os.execvp(program[0], program)  # noqa: S606 - becoming another program without a shell is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
