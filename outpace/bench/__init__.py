"""Measuring: prompt files, interleaved runs, reports."""
