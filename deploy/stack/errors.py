"""What can go wrong with the local stack, as one family of errors."""


class StackError(Exception):
    """A stack operation failed; the message says what was wrong, where, and what to do."""


class StartError(StackError):
    """A server did not become ready; the message ends with the tail of its log."""


class DownloadError(StackError):
    """An artifact could not be fetched, or what was fetched is not what is pinned."""


class PortTakenError(StackError):
    """A wanted port is in use by somebody else."""


class NotRunningError(StackError):
    """The operation needs a running stack and there is none in the folder."""
