"""What a ledger stands on: its topics, schemas and search indices as wanted against as found, and the local stack.

Nothing that runs in production imports this package; the command line alone reaches it.
"""
