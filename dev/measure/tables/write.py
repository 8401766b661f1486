"""Every table of the documentation, from the documents in docs/results/.

usage: python dev/measure/tables/write.py             writes the tables of the README, docs/results/ and other pages (`make tables`)
       python dev/measure/tables/write.py measure     measures the README's tables anew first, about 40 minutes (`make bench`)

Measure on a machine that does nothing else, with llama.cpp installed (`python -m outpace.bench.peers llama.cpp`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEASURE = Path(__file__).parents[1]
SCRIPTS = ("results.py", "peers_table.py", "tables/temperature_tables.py")
OF_THE_README = SCRIPTS[1:]


def main(arguments: list[str]) -> None:
    """Measure where that was asked for, one model after the other; then write every page."""
    measuring = [[script, "measure", "all"] for script in OF_THE_README] if arguments == ["measure"] else []
    for script, *more in [*measuring, *([script] for script in SCRIPTS)]:
        subprocess.run([sys.executable, str(MEASURE / script), *more], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
