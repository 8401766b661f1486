"""What a precision costs in quality: perplexity, and the share of tokens that come out first as in the first model given.

usage: python dev/measure/quality.py REFERENCE_FOLDER FOLDER... --text english.txt --text code.py [--tokens 2048]

The folders are converted models of one tokenizer (model.xml, tokenizer.json, config.json), the first one best in f32. The last line
on stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from outpace.arrays import Array
from outpace.models.tokenizer import Tokenizer
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.tree.segment import Segment

WINDOW = 512  # tokens that are read together, each window on its own
SKIPPED = 16  # first tokens of a window, which have too little before them to count


def windows(path: Path, tokenizer: Tokenizer, num_tokens: int) -> list[list[int]]:
    """The first tokens of a text, in windows."""
    tokens = tokenizer.encode(path.read_text("utf-8"), add_special_tokens=False)[:num_tokens]
    return [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW) if len(tokens) - i > 2 * SKIPPED]


def log_probabilities(logits: Array) -> Array:
    """[rows, V] float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    normed: Array = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return normed


def read(folder: Path, texts: list[list[list[int]]]) -> list[tuple[float, Array, Array]]:
    """(perplexity, first token of each place, log probability of the next one) for each text."""
    facts = json.loads((folder / "config.json").read_text("utf-8"))
    precision = "f32" if "f32" in folder.name else "int8"
    target = OpenVINOTarget(
        folder / "model.xml", vocab_size=facts["vocab_size"], max_len=WINDOW * 2, precision=precision, kv_cache_tokens=WINDOW * 4
    )
    found = []
    for text in texts:
        firsts, known = [], []
        for tokens in text:
            slot = target.allocate(len(tokens))
            rows = log_probabilities(target.forward([Segment(slot, tokens)]).logits)[SKIPPED:-1]
            target.free(slot)
            firsts.append(rows.argmax(1))
            known.append(rows[np.arange(len(rows)), tokens[SKIPPED + 1 :]])
        places = np.concatenate(known)
        found.append((float(np.exp(-places.mean())), np.concatenate(firsts), places))
    return found


def main() -> None:
    """Parse the arguments, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--text", action="append", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_folder(options.folders[0])
    texts = [windows(path, tokenizer, options.tokens) for path in options.text]
    reference, results = None, []
    for folder in options.folders:
        found = read(folder, texts)
        reference = reference or found
        for path, one, other in zip(options.text, found, reference, strict=True):
            same, change = float((one[1] == other[1]).mean()), float((one[2] - other[2]).mean())
            results.append({"model": folder.name, "text": path.name, "perplexity": one[0], "same_first": same, "log_prob_change": change})
            print(f"{folder.name:28} {path.name:20} perplexity {one[0]:7.3f}   first as in the reference {same:6.1%}", flush=True)  # noqa: T201
    print(json.dumps(results))  # noqa: T201


if __name__ == "__main__":
    main()
