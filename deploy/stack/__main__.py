"""`python -m deploy.stack`: the stack's commands by themselves."""

from deploy.stack.cli import app

app()
