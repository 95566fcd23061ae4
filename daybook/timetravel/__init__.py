"""One account's stream, and the ledger as it was: from the audit index, or from the log itself."""
