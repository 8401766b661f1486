"""usage: python -m outpace.models.gguf SOURCE OUT_DIR PRECISION [NUM_LAYERS]

Tells its parent what it does (`models/channel.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no network, no files in the user's home

from outpace.models.channel import run  # noqa: E402
from outpace.models.gguf.to_openvino import convert  # noqa: E402


def main(source: str, out: str, precision: str, num_layers: str = "") -> int:
    """Convert a file, and return the exit code."""
    return run(lambda tell: convert(Path(source), Path(out), precision, int(num_layers) if num_layers else None, tell))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
