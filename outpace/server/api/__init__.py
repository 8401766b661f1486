"""The HTTP endpoints: fields, answers, streams."""
