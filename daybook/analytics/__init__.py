"""The analytics table: reading it with SQL, drawing it, keeping its files in order. docs/ANALYTICS.md describes it."""
