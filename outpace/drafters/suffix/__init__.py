"""Suffix decoding: the drafter, its automaton, and the answers it remembers."""
