"""How schemas go on: the gate for a next version, its draft, and the graph of all. Works without any server."""
