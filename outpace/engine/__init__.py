"""The decoding loop, its scheduler and its counters."""
