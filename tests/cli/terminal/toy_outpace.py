"""The command line on the toy model, as a program. `OUTPACE_TOY_SECONDS` is how long its loading takes."""

import os
import time

from toy_parts import toy_parts

import outpace.llm
from outpace import cli
from outpace.progress import slow


def load(*_):
    with slow("loading toy ..."):
        time.sleep(float(os.environ.get("OUTPACE_TOY_SECONDS", "0")))
        return toy_parts(max_len=2000)


outpace.llm.load = load
cli.main()
