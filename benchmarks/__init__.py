"""Benchmarks: what the running system does, beside a plain loop on the same servers in the same run."""
