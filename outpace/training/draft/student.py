"""The student of a distillation: the first layers of a model as a separate model, and its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outpace.errors import OutpaceError
from outpace.files import temporary
from outpace.heads.draft_record import DraftRecord
from outpace.heads.format import CONFIG
from outpace.models.find import Source
from outpace.models.transformers_io import first_layers, load_in_f32, load_tokenizer
from outpace.training.base_model import LMHeadWeights


@dataclass(frozen=True)
class Student:
    """A loaded transformers model in float32 that shares its frozen embeddings and LM head with its teacher; `head` is that LM head."""

    source: Source
    live: Any
    head: LMHeadWeights

    @classmethod
    def of(cls, model: str, num_layers: int) -> Student:
        """Take the first layers of a model. Raises BadInputError if it cannot be loaded or has fewer layers."""
        teacher, source = load_in_f32(model)
        head = LMHeadWeights.of_live(teacher, source.name)
        live = first_layers(teacher, num_layers)
        for module in (live.get_input_embeddings(), live.get_output_embeddings()):
            module.requires_grad_(False)
        return cls(source, live, head)

    def round(self) -> None:
        """Round the weights to bfloat16, the type they are saved in."""
        for parameter in self.live.parameters():
            parameter.data.copy_(parameter.data.bfloat16())

    def _whole(self) -> Any:
        """A new model with the same weights in bfloat16; the loaded one is part of its teacher, which may have been quantized."""
        whole = type(self.live)._from_config(self.live.config, dtype=torch.bfloat16)
        whole.load_state_dict(self.live.state_dict())
        whole.generation_config = self.live.generation_config
        return whole

    def save(self, folder: Path, record: DraftRecord) -> None:
        """Write model, tokenizer and record to a folder, which may contain other files. A crash leaves the old model, none or the new one.

        Raises OutpaceError if the folder cannot be written to.
        """
        try:
            with temporary(folder / "model") as written:
                written.mkdir(parents=True)
                load_tokenizer(self.source.path).save_pretrained(written)
                self._whole().save_pretrained(written)
                record.save(written)
                (folder / CONFIG).unlink(missing_ok=True)  # a folder without it has no model
                for file in sorted(written.iterdir(), key=lambda file: file.name == CONFIG):
                    file.replace(folder / file.name)
        except OSError as error:
            raise OutpaceError(f"cannot write the model to {folder}: {error.strerror or error}") from error
