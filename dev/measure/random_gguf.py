"""A .gguf file of random weights in the shape of a 7B model, to see what loading one takes.

usage: python dev/measure/random_gguf.py OUT.gguf [--kind Q4_K] [--layers 32]

The layers are written one after another and share their numbers, so little memory is needed. Look at the peak with
`python dev/measure/load_cost.py OUT.gguf int4`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from gguf_tools import Sizes, write_model


def main() -> None:
    """Parse the arguments and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kind", default="Q4_K")
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    sizes = Sizes(options.layers, hidden=4096, inner=11008, heads=32, kv_heads=32, head_dim=128, vocab=32000, context=4096)
    write_model(options.out, "llama", options.kind, sizes, is_tied=False)
    print(f"{options.out}: {options.out.stat().st_size / 1e9:.2f} GB")  # noqa: T201


if __name__ == "__main__":
    main()
