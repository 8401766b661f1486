"""The page of a benchmark, a load test or a trace: one HTML file that needs no network (`--report`, `outpace report`)."""
