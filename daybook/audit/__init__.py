"""Tamper evidence: chains, signed checkpoints, and proofs of single events. docs/AUDIT.md.

* `merkle.py`: trees as in RFC 6962. `keys.py`: Ed25519. `formats.py`: checkpoints and proofs as JSON.
* `row.py`: the checkpoints as they are kept, and whether each follows from the one before.
* `taking.py`: the next checkpoint. `proving.py`: one event's proof, made and checked.
* `watching.py`: the auditor as a process.
* `run.py`: all of it verified, over `workers.py`, each with `partition.py` and `trail.py`.
"""
