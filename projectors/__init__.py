"""The read side: each projector keeps one read model up to date with the log, from a position that the model owns."""
