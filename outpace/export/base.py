"""The model that heads were trained for, as needed by other engines: its LM head and its location."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.draft_record import RECORD
from outpace.heads.format import CONFIG, read_config
from outpace.models.find import Source
from outpace.models.transformers_io import load_in_f32, load_tokenizer
from outpace.targets.identity import Base, base_of

FOLDER = "base"  # subfolder of the export for a model that comes from a .gguf file


@dataclass(frozen=True)
class BaseModel:
    """A loaded transformers model and its source."""

    source: Source
    live: Any
    base: Base

    @classmethod
    def of(cls, model: str) -> BaseModel:
        """Load in float32. Raises BadInputError if the model cannot be loaded."""
        live, source = load_in_f32(model)
        return cls(source, live, base_of(live, source.name))

    def lm_head(self) -> Array:
        """The matrix [V, H] float32. Raises BadInputError for an LM head with a bias, which other engines' heads do not support."""
        head = self.live.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise BadInputError(f"the LM head of {self.base.name} has a bias, which no layout of Medusa heads supports")
        matrix: Array = head.weight.detach().numpy()
        return matrix

    def place(self, folder: Path, out: Path) -> str:
        """The model for the engine to load: the hub id or the folder. A .gguf file is written in bfloat16 to a subfolder of the export,
        which is at `folder` now and will be at `out`."""
        if self.source.path.suffix != ".gguf":
            return self.base.name if "/" in self.base.name else str(self.source.path)
        self.live.bfloat16().save_pretrained(folder / FOLDER)
        load_tokenizer(self.source.path).save_pretrained(folder / FOLDER)
        return str(out.absolute() / FOLDER)


def base_model(source: Path, model: str | None) -> BaseModel:
    """The model `model`, or else the one named in the folder `source`. Raises BadInputError if it is not named or cannot be loaded."""
    if model is not None:
        return BaseModel.of(model)
    named = read_config(source, RECORD if (source / RECORD).is_file() else CONFIG).get("base")
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise BadInputError(f"{source} does not say which model it was made for; name it with --model")
    try:
        return BaseModel.of(named["name"])
    except BadInputError as error:
        raise BadInputError(f"{source} was made for {named['name']!r}; pass its location with --model ({error})") from error
