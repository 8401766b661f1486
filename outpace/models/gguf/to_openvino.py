"""Converts a GGUF file to a folder that outpace can run: model.xml, tokenizer.json and config.json. Needs neither torch nor transformers.

Progress is reported through `say`, with the same stages as in models/convert.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov

from outpace.models.gguf import model_config as configs
from outpace.models.gguf import weights
from outpace.models.gguf.file import GGUFFile, read
from outpace.models.gguf.fingerprint import fingerprint_of
from outpace.models.gguf.graph import Graph, Loader
from outpace.models.gguf.model_config import Config
from outpace.models.gguf.names import Parameter, parameters
from outpace.models.gguf.tokenizer_json import end_token_ids, save_tokenizer
from outpace.targets.openvino.trial import try_alone

TOLERANCE = 0.01  # most that logits of a tree may be off in f32, as a share of their spread; wrong ones are off by about 1
ROUNDED_TOLERANCE = 0.1  # where activations are rounded, to 8 bits or bf16: coder-0.5b in int4 is off by 2%


def convert(path: Path, out: Path, precision: str, num_layers: int | None = None, say: Callable[[str], None] = lambda stage: None) -> None:
    """Write the model (only its first `num_layers` layers, if given), its tokenizer and config.json into the existing folder `out`.

    Raises BadInputError if the file is damaged or uses unsupported features.
    """
    file = read(path)
    config = configs.config_of(file)
    config = config.first_layers(num_layers) if num_layers else config
    found = parameters(file, config)
    save_tokenizer(file.facts, out)
    say("reading the weights")
    model = Graph(config, found, loader(precision)).build()
    say("writing the model")
    ov.save_model(model, out / "model.xml", compress_to_fp16=False)
    del model
    say("trying it")
    try_alone(out / "model.xml", config.vocab_size, precision, TOLERANCE if precision == "f32" else ROUNDED_TOLERANCE)
    (out / "config.json").write_text(json.dumps(_record(file, config, found), indent=2), "utf-8")


def loader(precision: str) -> Loader:
    """The function that loads a matrix at this precision."""
    if precision in ("f32", "bf16"):
        return partial(weights.floats, dtype=np.float32 if precision == "f32" else np.float16)
    return weights.rows8 if precision == "int8" else _four_bits


def _four_bits(parameter: Parameter) -> weights.Weight:
    """Load a matrix in 4 bits; in 8 bits if it is the embedding or LM head, or if its rows do not divide into groups."""
    is_table = parameter.name in ("model.embed_tokens.weight", "lm_head.weight")
    if is_table or parameter.tensor.shape[1] % weights.GROUP:
        return weights.rows8(parameter)
    return weights.groups4(parameter)


def _record(file: GGUFFile, config: Config, found: dict[str, Parameter]) -> dict[str, object]:
    """The contents of config.json: what outpace needs to know about a model before loading it."""
    return {
        "fingerprint": fingerprint_of(found.values()),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "max_len": config.max_len,
        "eos_token_ids": end_token_ids(file.facts),
        "model_type": config.model_type,
    }
