"""Convert a Hugging Face causal LM to an OpenVINO model. Runs in a separate process, so that the main process does not import torch.

usage: python -m outpace.models.convert SOURCE OUT_DIR PRECISION [NUM_LAYERS]     (SOURCE: a model folder or a .gguf file)

Tells its parent what it does (`channel.py`). The model is traced with explicit K/V inputs and an attention function of our own
(`tracing`); then it is made stateful, in the form that OpenVINO's paged attention transformation recognizes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no network, no files in the user's home
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import openvino as ov
import torch

from outpace.arrays import Array
from outpace.errors import BadInputError
from outpace.files import read_json
from outpace.models.channel import Tell, run
from outpace.models.refusal import refuse_quantized
from outpace.models.tracing.experts import NAME as EVERY_EXPERT
from outpace.models.tracing.stateful_graph import trace
from outpace.models.transformers_io import (
    UnreadableError,
    context_length,
    end_token_ids,
    first_layers,
    load_model,
    load_tokenizer,
    without_weights,
)
from outpace.targets.hf.live_models import refuse
from outpace.targets.hf.target import HFTarget
from outpace.targets.identity import base_of
from outpace.targets.openvino.trial import compare
from outpace.targets.self_check import check_tokens

LOOPS = "its code loops over tokens or experts, which the converter cannot follow; use --target hf"
EXACT, ROUNDED = 0.01, 0.1  # most that logits may be off, as a share of their spread: weights in 32 bits, rounded to 16 bits


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
    tokens = torch.tensor([check_tokens(model.config.get_text_config().vocab_size)])
    logits: Array = model(input_ids=tokens, use_cache=False).logits[0].float().numpy()
    return logits


def convert(source: Path, out: Path, precision: str, num_layers: int | None = None, tell: Tell = print) -> None:
    """Write model (only its first `num_layers` layers, if given), tokenizer and config.json to the existing folder `out`.

    Raises BadInputError for a model that cannot be converted, and for one that after it does not give what transformers gives.
    """
    refuse_quantized(source)
    load_tokenizer(source).save_pretrained(out)
    with torch.no_grad():
        if precision != "f32" and _can_be_narrow(source):
            try:
                return _convert(source, out, precision, num_layers, tell, "auto")
            except UnreadableError:
                raise
            except Exception:
                tell("converting it in 32 bits")  # its code may not allow 16, or the fault is another, which this finds again
        return _convert(source, out, precision, num_layers, tell, torch.float32)


def _can_be_narrow(source: Path) -> bool:
    """Whether the weights of a folder have 16 bits, and none are of experts or convolutions, which are traced in 32 bits only. Raises
    BadInputError for a model that no target can run."""
    config = read_json(source / "config.json") if source.is_dir() else {}
    if (config.get("dtype") or config.get("torch_dtype")) not in ("bfloat16", "float16"):
        return False
    model = without_weights(source)
    refuse(model)
    return all(parameter.dim() <= 2 for parameter in model.parameters())


def _convert(source: Path, out: Path, precision: str, num_layers: int | None, tell: Tell, dtype: Any) -> None:
    tell("loading the weights")
    model = load_model(source, dtype, experts_implementation=EVERY_EXPERT)
    model = first_layers(model, num_layers) if num_layers else model
    HFTarget(model, hidden=False)  # raises for a model that no target can run
    record = _facts(model, source.stem)
    expected = plain_logits(model)
    tell("tracing the model")
    traced = trace(model)
    record["max_len"] = context_length(model.config, traced.windows)
    del model
    tell("writing the model")
    is_compressed = precision in ("int8", "int4")
    path = out / ("wide.xml" if is_compressed else "model.xml")
    ov.save_model(traced.model, path, compress_to_fp16=precision != "f32")
    has_loops = traced.has_loops
    del traced
    tell("comparing it with the original")
    try:
        compare(path, expected, EXACT if precision == "f32" else ROUNDED)
    except BadInputError as error:
        raise BadInputError(LOOPS) if has_loops else error from None
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
        "eos_token_ids": end_token_ids(model),
        "model_type": model.config.model_type,
    }


def main(source: str, out: str, precision: str, num_layers: str = "") -> int:
    """Convert, and return the exit code."""
    return run(lambda tell: convert(Path(source), Path(out), precision, int(num_layers) if num_layers else None, tell))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
