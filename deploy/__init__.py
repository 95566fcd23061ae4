"""What a ledger stands on: its topics and schemas as wanted against as found, and the local stack.

Nothing that runs in production imports this package; the command line alone reaches it.
"""
