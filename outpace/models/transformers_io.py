"""Load models and their properties with transformers; the only module that turns a source into a loaded model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outpace.errors import BadInputError
from outpace.models.find import Source, locate
from outpace.models.refusal import quantization_of
from outpace.progress import slow
from outpace.reason import reason_of
from outpace.targets.text_length import chunks_of, max_length, windows_of

logger = logging.getLogger("outpace")


class UnreadableError(BadInputError):
    """The weights of a model cannot be read, or some of them are not there."""


def source_arguments(source: Path) -> tuple[str, dict[str, Any]]:
    """(folder, extra arguments) for `from_pretrained` of a folder or a .gguf file; nothing is downloaded, and code in the folder never
    runs: transformers neither takes it nor asks about it."""
    local = {"local_files_only": True, "trust_remote_code": False}
    if source.suffix == ".gguf":
        return str(source.parent), {"gguf_file": source.name, **local}
    return str(source), local


def load_model(source: Path, dtype: Any, **options: Any) -> Any:
    """Load a transformers causal LM in evaluation mode. Raises UnreadableError if transformers cannot read it, or if some of the
    weights are not there, which transformers would make up."""
    from transformers import AutoModelForCausalLM

    folder, arguments = source_arguments(source)
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **options}  # what does not fit is refused below, by name
    try:
        with _hidden_bars():
            model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **arguments, **options)
    except Exception as error:
        raise UnreadableError(f"cannot load {source}: {reason_of(error)}") from error
    _refuse_made_up_weights(source, report)
    if hasattr(model.config, "quantization_config") and "gguf_file" in arguments:
        del model.config.quantization_config  # the weights are plain tensors now
        model.hf_quantizer = None  # otherwise the model cannot be saved
    if "gguf_file" in arguments:
        _name_window(model.config.get_text_config(), source)
    return model.eval()


def load_in_f32(model: str) -> tuple[Any, Source]:
    """(the model in float32, where it is). Raises BadInputError if it cannot be had or loaded."""
    source = locate(model)
    with slow(f"loading {source.name} with torch ..."):
        return load_model(source.path, "float32"), source


def without_weights(folder: Path) -> Any:
    """The model of a folder on the device "meta", which holds no numbers. Raises UnreadableError if transformers does not know it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder), **source_arguments(folder)[1]))
    except Exception as error:
        raise UnreadableError(f"cannot load {folder}: {reason_of(error)}") from error


def _name_window(config: Any, source: Path) -> None:
    """Let the config name the sliding window of a .gguf file, which transformers leaves out for some architectures: a target limits texts
    to a window that the model does not mask by."""
    from outpace.models.gguf.file import read

    facts = read(source).facts
    window = facts.get(f"{facts.get('general.architecture')}.attention.sliding_window")
    if window and not getattr(config, "sliding_window", None):
        config.sliding_window = window


@contextmanager
def _hidden_bars() -> Iterator[None]:
    """Without transformers' progress bars, which neither log files nor the bars of outpace go with."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging as bars

    were_shown, bar = bars.is_progress_bar_enabled(), gguf_reader.tqdm
    gguf_reader.tqdm = bars.tqdm  # its own does not ask the switch
    bars.disable_progress_bar()
    try:
        yield
    finally:
        gguf_reader.tqdm = bar
        if were_shown:
            bars.enable_progress_bar()


def _refuse_made_up_weights(source: Path, report: dict[str, Any]) -> None:
    """Raise UnreadableError if transformers filled in random values for weights that the files lack or have in another shape."""
    for name, stored, wanted in sorted(report["mismatched_keys"], key=str):
        raise UnreadableError(f"cannot load {source}: {name} is {list(stored)} in the files, and its config says {list(wanted)}")
    missing, unknown = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        others = f", and have others that the model does not: {_first(unknown)}" if unknown else ""
        raise UnreadableError(f"cannot load {source}: the files lack the weights {_first(missing)}{others}")


def _first(names: list[str]) -> str:
    """The first three names, and how many there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def first_layers(model: Any, num_layers: int) -> Any:
    """A model of the first `num_layers` layers with the same embeddings, final norm and LM head. All weights are shared, and the given
    model is not changed. Raises BadInputError if it has fewer layers or they cannot be found."""
    from torch.nn import ModuleList

    total = model.config.get_text_config().num_hidden_layers
    if not 1 <= num_layers <= total:
        raise BadInputError(f"the model has {total} layers; it has no first {num_layers}")
    names = [name for name, module in model.named_modules() if isinstance(module, ModuleList) and len(module) == total]
    names = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]  # experts in layers, for example
    if len(names) != 1:
        raise BadInputError(f"{type(model).__name__} has no single list of layers to take the first {num_layers} of")
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.num_hidden_layers = num_layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:num_layers]
    top = module = _shallow(model, config)
    *path, last = names[0].split(".")
    for name in path:
        module._modules[name] = module = _shallow(module._modules[name], config)
    module._modules[last] = ModuleList(list(module._modules[last])[:num_layers])
    return top.eval()


def _shallow(module: Any, config: Any) -> Any:
    """A copy of a module that shares everything but its config and its table of children."""
    if "forward" in vars(module):  # accelerate binds it to the original, which has all layers
        raise BadInputError("a model spread over devices by accelerate cannot share its first layers; load it on one device")
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    if hasattr(module, "config"):
        text = config.get_text_config()
        copied.config = text if isinstance(module.config, type(text)) else config
    return copied


def context_length(config: Any, windows: set[int]) -> int:
    """Longest sequence of a converted model, in tokens. The chunks of some models are the limit, because OpenVINO cannot mask by them and
    within the first one attention is full. So are sliding windows other than these `windows`, by which its attention masks."""
    text = config.get_text_config()
    return max_length(text, widths=chunks_of(text) | (windows_of(text) - windows))


def end_token_ids(model: Any) -> list[int]:
    """End-of-text token ids, sorted: from the generation config, else from the model config."""
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = ends if ends is not None else model.config.get_text_config().eos_token_id
    return sorted({ends} if isinstance(ends, int) else set(ends or []))


def load_for_hf(source: Path, precision: str, threads: int | None, device: str = "auto") -> Any:
    """Load a model for the torch target. Precision auto is bf16 on CUDA, f32 on the CPU. A quantised checkpoint keeps its numbers, which
    transformers loads by itself. Raises BadInputError."""
    import torch

    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    place = find_device(device)
    if threads:
        torch.set_num_threads(threads)
    if method := quantization_of(source):
        if precision != "auto":
            raise BadInputError(f"the checkpoint is quantised ({method}) and has no precision {precision!r}; use auto")
        return load_model(source, "auto", device_map={"": place})
    precision = ("f32" if place == "cpu" else "bf16") if precision == "auto" else precision
    if precision not in types:
        raise BadInputError(f"target hf has no precision {precision!r}; known: auto, {', '.join(types)}")
    return load_model(source, types[precision]).to(place)


def find_device(device: str) -> str:
    """`device` with auto resolved. Raises BadInputError for a CUDA device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device != "cpu" and int(device.partition(":")[2] or 0) >= count:
        raise BadInputError(f"there is no device {device}; torch {torch.__version__} sees {count} CUDA devices")
    return device


def on_device(model: Any, device: str) -> Any:
    """A live model on this device; `auto` leaves it where it is."""
    return model if device == "auto" else model.to(find_device(device))


def load_tokenizer(source: Path) -> Any:
    """The fast tokenizer that belongs to a source. Raises BadInputError if there is none."""
    from transformers import AutoTokenizer

    folder, arguments = source_arguments(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
    except Exception as error:
        raise BadInputError(f"cannot load the tokenizer of {source}: {reason_of(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise BadInputError(f"cannot load the tokenizer of {source}: it has no tokenizer.json and no form that could be made into one")
    return tokenizer


def precision_of(model: Any) -> str:
    """Name of a loaded model's data type."""
    return {"torch.float32": "f32", "torch.bfloat16": "bf16", "torch.float16": "f16"}.get(str(model.dtype), str(model.dtype))
