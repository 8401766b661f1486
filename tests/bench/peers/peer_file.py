"""A peer for tests: it answers with the prompt reversed, and fails or ends where it is asked to."""

from __future__ import annotations

import os
import sys

PACKAGES = ("no-such-package==0",)
MODEL = "gguf"
WAYS = ("plain", "lookup", "lookup:size=2")


def load(model, draft_model, way, options, threads):
    sys.stdout.write("a library that prints to stdout\n")
    os.write(1, b"and one that does so without Python\n")
    if way == "broken":
        raise ValueError("no such way")

    def ask(prompt, max_tokens):
        if prompt == [13]:
            raise RuntimeError("an unlucky prompt")
        if prompt == [14]:
            os.write(2, b"first line\nlast words\n\n")
            os._exit(3)
        tokens = prompt[::-1][:max_tokens]
        return {"token_ids": tokens, "num_decoded": len(tokens) - 1, "decode_seconds": 0.5}

    return {"version": "peer 1", "settings": {"model": model, "way": way, **options, "threads": threads, "draft": draft_model}}, ask
