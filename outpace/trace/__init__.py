"""Traces: one JSON line per step of the engine (`--trace FILE`), and the sums over steps that reports need.

The first line says what follows: {"trace": VERSION, "outpace", "model", "precision", "machine", "has_text", "started_at"}. Each further
line is a step: {"step", "at", "milliseconds": {part: ms}, "num_tokens", "num_prompt_tokens", "answers"}; `at` is the end of the step in
milliseconds since the trace began. An answer is {"request", "step", "drafter", "num_drafted", "num_accepted", "tokens", "draft",
"finish_reason"}: requests are numbered as they come, its `step` counts its own steps, and `tokens` and `draft` are those of
`lines.py`, with texts only if asked for. The prompt is never in it.
"""
