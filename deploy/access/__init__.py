"""Who may what: the principals, and what each server is told of them."""
