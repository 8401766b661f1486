"""Benchmarks: prompt files, interleaved runs, servers under load, reports."""
