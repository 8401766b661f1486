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
from outpace.errors import BadInputError, OutpaceError
from outpace.models.channel import Tell, run
from outpace.models.refusal import reason_of, refuse_quantized
from outpace.models.tracing.experts import NAME as EVERY_EXPERT
from outpace.models.tracing.stateful_graph import trace
from outpace.models.transformers_io import context_length, end_token_ids, first_layers, load_model, load_tokenizer
from outpace.targets.hf.target import refuse
from outpace.targets.identity import base_of
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.targets.self_check import NUM_TOKENS, check_tokens, tree_error

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


def check(path: Path, expected: Array, tolerance: float) -> None:
    """Raise BadInputError if the converted model cannot run, or its logits are not those that the original gave."""
    try:
        target = OpenVINOTarget(path, vocab_size=expected.shape[1], max_len=NUM_TOKENS, precision="f32", kv_cache_tokens=64)
        error = tree_error(target, expected)
    except (OutpaceError, RuntimeError) as reason:
        raise BadInputError(f"OpenVINO cannot run the converted model: {reason_of(reason)}; use --target hf") from None
    finally:
        path.with_name("sizes.json").unlink(missing_ok=True)  # measured while the model has no name yet
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
    tell("loading the weights")
    model = load_model(source, torch.float32, experts_implementation=EVERY_EXPERT)
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
