"""Options of commands: those that several share, in groups, and which cannot be used together."""
