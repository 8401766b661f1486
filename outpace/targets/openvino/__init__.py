"""The CPU target: a converted model, run by OpenVINO with paged attention."""
