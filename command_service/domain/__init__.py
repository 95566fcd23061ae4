"""The ledger's rules: pure functions of state, command and time."""
