"""Building of a successor table."""
