"""Comparing the read models with the log: what `daybook verify models` does.

The log is folded here once more, by code of its own, so that a defect of a projector's is not one of the comparison's
as well. `run.verify` says how it is done while the ledger goes on.
"""
