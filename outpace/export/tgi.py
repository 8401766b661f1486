"""Medusa heads for TGI, in the original layout: blocks `{head}.{layer}.linear`, and an LM head over all tokens for each head."""

from __future__ import annotations

import shlex
from pathlib import Path

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.export.base import base_model
from outpace.export.draft_layout import is_model
from outpace.export.folder import new_folder, write_heads
from outpace.export.medusa_layout import PlainHeads, plain_heads
from outpace.heads.medusa.imports import NAMES


def export_tgi(source: Path, out: Path, model: str | None) -> str:
    """See `export.Exporter`."""
    if is_model(source):
        raise BadInputError(f"{source} is a model; TGI supports Medusa heads but no draft models")
    base = base_model(source, model)
    heads = plain_heads(source, base)
    with new_folder(out) as folder:
        config = {
            "base_model_name_or_path": base.place(folder, out),
            "medusa_num_heads": heads.num_heads,
            "medusa_num_layers": heads.num_layers,
        }
        write_heads(folder, config, _tensors(heads), NAMES[0])
    return f"text-generation-launcher --model-id {shlex.quote(str(out.absolute()))}"


def _tensors(heads: PlainHeads) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for head, layer, weight, bias in heads.blocks():
        tensors |= {f"{head}.{layer}.linear.weight": weight, f"{head}.{layer}.linear.bias": bias}
    lm_heads = heads.lm_heads if len(heads.lm_heads) == heads.num_heads else heads.lm_heads * heads.num_heads
    return tensors | {f"{head}.{heads.num_layers}.weight": matrix for head, matrix in enumerate(lm_heads)}
