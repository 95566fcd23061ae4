"""Become a server that can't outlive its supervisor.

    python -I -S shim.py PARENT USER PROGRAM [ARGUMENT...]

Run as a script with the standard library alone, between the supervisor's fork and the server's exec:
code here may allocate and import, which code between fork and exec in the supervisor itself must not.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, user: str, argv: list[str]) -> None:
    """Replace this process by `argv`, to be killed by the kernel when `parent` ends. USER "" is the caller's."""
    if user:
        import pwd  # noqa: PLC0415 - needed by few servers

        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    # After the change of user, which would clear it. It survives the exec below.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # A parent that ended before the line above sent no signal.
    if os.getppid() != parent:
        sys.exit("the supervisor ended while it started this server")
    # Python ignores SIGPIPE, and what is ignored stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execv(argv[0], argv)  # noqa: S606 - becoming another program is the point


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
