"""`make demo`: a bank's month through real servers, checked against a sum that shares no code with the ledger."""
