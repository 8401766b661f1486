"""The CPU target: converted models with paged attention."""
