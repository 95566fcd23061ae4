"""Bytes of every version of every record ever released, and what they led to. See docs/SCHEMAS.md."""
