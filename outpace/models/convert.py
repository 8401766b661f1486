"""Convert a Hugging Face causal LM to an OpenVINO model. Runs in a separate process, so that the main process does not import torch.

usage: python -m outpace.models.convert SOURCE OUT_DIR PRECISION [NUM_LAYERS]     (SOURCE: a model folder or a .gguf file)

Tells its parent what it does (`channel.py`). The model is traced with explicit K/V
inputs, a cache layer that only concatenates and an attention function that takes the mask as given; then it is made stateful, in the form
that OpenVINO's paged attention transformation recognizes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no network, no files in the user's home
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import torch
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface

from outpace.arrays import Array
from outpace.errors import BadInputError, OutpaceError
from outpace.models.channel import Tell, run
from outpace.models.refusal import reason_of, refuse_quantized
from outpace.models.transformers_io import context_length, end_token_ids, first_layers, load_model, load_tokenizer
from outpace.targets.hf.target import refuse
from outpace.targets.identity import base_of
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.targets.self_check import NUM_TOKENS, check_tokens, tree_error

EXACT, ROUNDED = 0.01, 0.1  # most that logits may be off, as a share of their spread: weights in 32 bits, rounded to 16 bits
KNOWN_LAYERS = {"full_attention", "sliding_attention"}


class CatLayer(DynamicLayer):
    """A cache layer that contains given tensors and appends by concatenation, so that the trace is a plain Concat."""

    def __init__(self, keys: Any, values: Any):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self.keys, self.values = torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)
        return self.keys, self.values


def traced_attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, dropout: float = 0.0, **kwargs: Any
) -> tuple[Any, None]:
    """Attention with the mask as given. Raises BadInputError for variants that the converted graph cannot express."""
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise BadInputError(f"its attention uses {name}, which the converter cannot express; use --target hf")
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        batch, heads, length, dim = key.shape
        key = key[:, :, None].expand(batch, heads, groups, length, dim).reshape(batch, heads * groups, length, dim)
        value = value[:, :, None].expand(batch, heads, groups, length, dim).reshape(batch, heads * groups, length, dim)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


class Traced(torch.nn.Module):
    """The model with K/V as plain inputs and outputs."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, *past: Any) -> Any:
        cache = Cache(layers=[CatLayer(past[2 * i], past[2 * i + 1]) for i in range(len(past) // 2)])
        num_new, num_all = input_ids.shape[1], attention_mask.shape[1]
        keys = torch.arange(num_all)[None, None, None, :]
        queries = (torch.arange(num_new) + num_all - num_new)[None, None, :, None]
        hidden = torch.finfo(torch.float32).min
        mask = torch.where(keys <= queries, 0.0, hidden) + torch.zeros(input_ids.shape[0], 1, 1, 1)
        out = self.model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True)
        return (out.logits, *(tensor for layer in out.past_key_values.layers for tensor in (layer.keys, layer.values)))


def trace(model: Any) -> Any:
    """Trace an OpenVINO model with inputs input_ids, attention_mask, position_ids, beam_idx and K/V as state. Raises BadInputError for
    layers whose state cannot be rolled back."""
    config = model.config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if unknown or getattr(model, "_is_stateful", False) or getattr(model.config, "is_encoder_decoder", False):
        raise BadInputError(f"{config.model_type} has {', '.join(unknown) or 'recurrent or encoder'} layers that cannot be rolled back")
    num_layers = config.num_hidden_layers
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [torch.randn(1, kv_heads, 5, head_dim) for _ in range(2 * num_layers)]
    example = (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), torch.arange(5, 8)[None], *past)
    converted = ov.convert_model(Traced(model), example_input=example)
    kv_names = [f"{i}.{kind}" for i in range(num_layers) for kind in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in kv_names)]
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(converted.outputs, ["logits", *(f"present.{name}" for name in kv_names)], strict=True):
        port.get_tensor().set_names({name})
    shapes = [ov.PartialShape([-1, kv_heads, -1, head_dim] if name.startswith("past") else [-1, -1]) for name in names]
    converted.reshape(dict(zip(list(converted.inputs), shapes, strict=True)))
    _add_beam_index(converted, names)
    apply_make_stateful_transformation(converted, {f"past_key_values.{name}": f"present.{name}" for name in kv_names})
    _initialise_states(converted, kv_heads, head_dim)
    return converted


def _add_beam_index(model: Any, names: list[str]) -> None:
    """Add a Gather by beam_idx to every K/V input, which is part of the pattern that the paged transformation matches."""
    beam = ops.parameter(ov.PartialShape([-1]), dtype=np.int32, name="beam_idx")
    beam.output(0).get_tensor().set_names({"beam_idx"})
    model.add_parameters([beam])
    for port, name in zip(list(model.inputs), names, strict=False):
        if name.startswith("past"):
            node = port.get_node()
            consumers = list(node.output(0).get_target_inputs())
            gather = ops.gather(node, beam, ops.constant(np.int64(0)))
            for consumer in consumers:
                consumer.replace_source_output(gather.output(0))
    model.validate_nodes_and_infer_types()


def _initialise_states(model: Any, kv_heads: int, head_dim: int) -> None:
    """Give every ReadValue an empty initial value, which the paged transformation needs to match."""
    batch = ops.gather(ops.shape_of(model.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            dims = ops.concat([batch, ops.constant(np.array([kv_heads, 0, head_dim], np.int64))], 0)
            op.set_arguments([ops.broadcast(ops.constant(0.0, dtype=op.get_output_element_type(0)), dims)])
    model.validate_nodes_and_infer_types()


def compress(path: Path, precision: str) -> Any:
    """Compress a 16-bit file, which takes half the memory of compressing the traced f32 model.

    int8: symmetric per output channel. int4: asymmetric in groups of 64 columns; embedding and LM head in 8 bits.
    """
    import nncf

    nncf.set_log_level(40)
    model, modes = ov.Core().read_model(path), nncf.CompressWeightsMode
    if precision == "int8":
        return nncf.compress_weights(model, mode=modes.INT8_SYM)
    from nncf.quantization.advanced_parameters import GroupSizeFallbackMode

    advanced = nncf.AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.IGNORE)  # such rows stay in 8 bits
    backup = nncf.BackupMode.INT8_SYM
    return nncf.compress_weights(model, mode=modes.INT4_ASYM, group_size=64, ratio=1.0, backup_mode=backup, advanced_parameters=advanced)


def plain_logits(model: Any) -> Array:
    """Logits [NUM_TOKENS, V] of the self-check's text in one forward pass without cache, by the model's own attention."""
    model.set_attn_implementation("eager")
    tokens = torch.tensor([check_tokens(model.config.get_text_config().vocab_size)])
    logits: Array = model(input_ids=tokens, use_cache=False).logits[0].float().numpy()
    model.set_attn_implementation("traced")
    return logits


def check(path: Path, expected: Array, tolerance: float) -> None:
    """Raise BadInputError if the converted model cannot run, or its logits are not those that the original gave."""
    try:
        target = OpenVINOTarget(path, vocab_size=expected.shape[1], max_len=NUM_TOKENS, precision="f32", kv_cache_tokens=64)
        error = tree_error(target, expected)
    except (OutpaceError, RuntimeError) as reason:
        raise BadInputError(f"OpenVINO cannot run the converted model: {reason_of(reason)}; use --target hf") from None
    if not error < tolerance:
        raise BadInputError(f"the converted model is wrong (its logits are {error:.0%} off); use --target hf")


def convert(source: Path, out: Path, precision: str, num_layers: int | None = None, tell: Tell = print) -> None:
    """Write model (only its first `num_layers` layers, if given), tokenizer and config.json to the existing folder `out`.

    Raises BadInputError for a model that cannot be converted, and for one that after it does not give what transformers gives.
    """
    with torch.no_grad():
        _convert(source, out, precision, num_layers, tell)


def _convert(source: Path, out: Path, precision: str, num_layers: int | None, tell: Tell) -> None:
    refuse_quantized(source)
    load_tokenizer(source).save_pretrained(out)
    AttentionInterface.register("traced", traced_attention)
    AttentionMaskInterface.register("traced", lambda *args, attention_mask=None, **kwargs: attention_mask)
    tell("loading the weights")
    model = load_model(source, torch.float32, attn_implementation="traced")
    refuse(model)
    model = first_layers(model, num_layers) if num_layers else model
    record = _facts(model, source.stem)
    expected = plain_logits(model)
    tell("tracing the model")
    converted = trace(model)
    del model
    tell("writing the model")
    is_compressed = precision in ("int8", "int4")
    path = out / ("wide.xml" if is_compressed else "model.xml")
    ov.save_model(converted, path, compress_to_fp16=precision != "f32")
    del converted
    tell("comparing it with the original")
    check(path, expected, EXACT if precision == "f32" else ROUNDED)
    if is_compressed:
        tell(f"compressing the weights to {precision[3:]} bits")
        ov.save_model(compress(path, precision), out / "model.xml", compress_to_fp16=True)
        path.unlink()
        path.with_suffix(".bin").unlink()
    (out / "config.json").write_text(json.dumps(record, indent=2), "utf-8")


def _facts(model: Any, name: str) -> dict[str, Any]:
    """What the main process wants to know of the model."""
    base = base_of(model, name)
    return {
        "fingerprint": base.fingerprint,
        "vocab_size": base.vocab_size,
        "hidden_size": base.hidden_size,
        "max_len": context_length(model.config),
        "eos_token_ids": end_token_ids(model),
        "model_type": model.config.model_type,
    }


def main(source: str, out: str, precision: str, num_layers: str = "") -> int:
    """Convert, and return the exit code."""
    return run(lambda tell: convert(Path(source), Path(out), precision, int(num_layers) if num_layers else None, tell))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
