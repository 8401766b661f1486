"""Export to vLLM: EAGLE heads, draft models, and Medusa heads for versions up to 0.32, after which vLLM dropped them.

Medusa's LM heads cover the whole vocabulary, because 0.32 fails at the `token_map` of a reduced one ("weights were not initialized"). vLLM
skips tensors that its config does not declare, so config and tensors are made together.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from outpace.arrays import Array
from outpace.export.base import base_model
from outpace.export.draft_layout import copy_draft, is_model
from outpace.export.eagle_layout import eagle_config, eagle_tensors, plain_eagle
from outpace.export.folder import new_folder, write_heads
from outpace.export.medusa_layout import PlainHeads, plain_heads
from outpace.heads.format import WEIGHTS, read_config

NUM_DRAFT_TOKENS = 4  # of a draft model or an EAGLE head; Medusa heads predict one token each


def export_vllm(source: Path, out: Path, model: str | None) -> str:
    """See `export.Exporter`."""
    base = base_model(source, model)
    if is_model(source):
        with new_folder(out) as folder:
            copy_draft(source, base, folder)
            return _command(base.place(folder, out), "draft_model", out, NUM_DRAFT_TOKENS)
    if read_config(source).get("kind") == "eagle":
        weights = plain_eagle(source, base)
        with new_folder(out) as folder:
            write_heads(folder, eagle_config(weights, base), eagle_tensors(weights), WEIGHTS)
            return _command(base.place(folder, out), "eagle", out, NUM_DRAFT_TOKENS)
    heads = plain_heads(source, base)
    with new_folder(out) as folder:
        write_heads(folder, _config(heads), _tensors(heads), WEIGHTS)
        return _command(base.place(folder, out), "medusa", out, heads.num_heads)


def _command(model: str, method: str, out: Path, num_tokens: int) -> str:
    settings = {"method": method, "model": str(out.absolute()), "num_speculative_tokens": num_tokens}
    return f"vllm serve {shlex.quote(model)} --speculative-config {shlex.quote(json.dumps(settings))}"


def _config(heads: PlainHeads) -> dict[str, Any]:
    """The config. No other key may contain "num" and "heads" or "layers", because vLLM renames all such keys."""
    return {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "num_heads": heads.num_heads,
        "num_hidden_layers": heads.num_layers,
        "hidden_size": heads.hidden_size,
        "vocab_size": heads.vocab_size,
        "truncated_vocab_size": heads.vocab_size,
        "medusa_fc_bias": True,
        "original_lm_head": len(heads.lm_heads) < heads.num_heads,
    }


def _tensors(heads: PlainHeads) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for head, layer, weight, bias in heads.blocks():
        tensors |= {f"blocks.{head}.layers.{layer}.weight": weight, f"blocks.{head}.layers.{layer}.bias": bias}
    return tensors | {f"lm_heads.{head}.weight": matrix for head, matrix in enumerate(heads.lm_heads)}
