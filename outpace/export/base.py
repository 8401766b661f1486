"""The model that a helper was made for, as other engines know it: its LM head, and where they find it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.heads.draft_record import RECORD
from outpace.heads.format import CONFIG, read_config
from outpace.models.find import Source, locate
from outpace.models.transformers_io import load_model, load_tokenizer
from outpace.targets.identity import Base, base_of

FOLDER = "base"  # of a model that is no folder of its own, inside the export


@dataclass(frozen=True)
class BaseModel:
    """A live transformers model and its source."""

    source: Source
    live: Any
    base: Base

    @classmethod
    def of(cls, model: str) -> BaseModel:
        """Read in float32. Raises BadInputError for a model that cannot be had."""
        source = locate(model)
        live = load_model(source.path, "float32")
        return cls(source, live, base_of(live, source.name))

    def lm_head(self) -> Array:
        """The matrix [V, H] float32. Raises BadInputError if there is a bias beside it, for which other engines' heads have no place."""
        head = self.live.get_output_embeddings()
        if getattr(head, "bias", None) is not None:
            raise BadInputError(f"the LM head of {self.base.name} has a bias, which no layout of Medusa heads can hold")
        matrix: Array = head.weight.detach().numpy()
        return matrix

    def place(self, folder: Path, out: Path) -> str:
        """What an engine is to load: the hub id or the folder; a .gguf file is written in bfloat16 into a folder of the export, which is
        now at `folder` and will be at `out`."""
        if self.source.path.suffix != ".gguf":
            return self.base.name if "/" in self.base.name else str(self.source.path)
        self.live.bfloat16().save_pretrained(folder / FOLDER)
        load_tokenizer(self.source.path).save_pretrained(folder / FOLDER)
        return str(out.absolute() / FOLDER)


def base_model(source: Path, model: str | None) -> BaseModel:
    """The model called `model`, or else the one that the helper in `source` names. Raises BadInputError if neither can be had."""
    if model is not None:
        return BaseModel.of(model)
    named = read_config(source, RECORD if (source / RECORD).is_file() else CONFIG).get("base")
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise BadInputError(f"{source} does not say which model it was made for; name it with --model")
    try:
        return BaseModel.of(named["name"])
    except BadInputError as error:
        raise BadInputError(f"the helper was made for {named['name']!r}; say with --model where it is ({error})") from error
