"""The contract: what both sides of the log must agree on. Everything here is pure but `registry`."""
