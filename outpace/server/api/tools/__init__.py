"""Tools: how models write calls, the grammar that enforces them, and how they are read from an answer."""
