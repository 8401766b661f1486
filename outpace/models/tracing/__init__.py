"""A transformers model as an OpenVINO graph: its attention, its experts, and the trace around them."""
