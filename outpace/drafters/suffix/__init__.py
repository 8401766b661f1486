"""Suffix decoding: the drafter, its automaton, and the cache of finished answers."""
