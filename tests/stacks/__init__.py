"""Where tests get their servers from: a local stack, containers of their own, or the compose stack that is up.

Each way has a file that yields what a dotenv file of ours would say: `DAYBOOK_*` addresses and credentials.
"""
