"""usage: python -m outpace.models.gguf SOURCE OUT_DIR PRECISION [NUM_LAYERS]

Prints one JSON object per line on stdout, as models/convert.py does: {"stage": …} for progress, {"error": …} on failure.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no network, no files in the user's home

from outpace.errors import OutpaceError  # noqa: E402
from outpace.models.gguf.to_openvino import convert  # noqa: E402


def say(**message: Any) -> None:
    """Print one line for the parent process."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(source: str, out: str, precision: str, num_layers: str = "") -> int:
    """Convert a file and return the exit code. A failure is also reported in one line on stdout."""
    try:
        convert(Path(source), Path(out), precision, int(num_layers) if num_layers else None, lambda stage: say(stage=stage))
    except OutpaceError as error:
        say(error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
