"""Build the target and the tokenizer of a model given by name or as a loaded object."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Event, Thread
from typing import Any, Generic, TypeVar

from outpace.config import DeviceConfig, EngineConfig
from outpace.errors import BadInputError
from outpace.models.find import Source, converted, locate, source_of
from outpace.models.precision import auto_precision
from outpace.models.tokenizer import Tokenizer
from outpace.progress import slow
from outpace.targets import create_target
from outpace.targets.base import TargetModel

T = TypeVar("T")
ANY_DEVICE = DeviceConfig()
NUM_FREQUENT = 65_536  # tokens that a draft model proposes while the text has no others


def load(
    model: Any,
    tokenizer: Any,
    target: str,
    precision: str,
    threads: int | None,
    config: EngineConfig,
    num_layers: int | None = None,
    device: DeviceConfig = ANY_DEVICE,
    is_draft: bool = False,
) -> tuple[str, TargetModel, Tokenizer, frozenset[int], str]:
    """(name, target, tokenizer, end token ids, precision) of a model given by name or as a loaded object, or of its first `num_layers`
    layers. `is_draft`: it will only draft. Raises BadInputError for options that do not fit."""
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise BadInputError(f"threads must be an integer of at least 1, not {threads!r}")
    target = kind_of(model, target, device)
    if target == "hf":
        return _load_hf(model, tokenizer, precision, threads, config, num_layers, device)
    if not isinstance(model, (str, Path)):
        raise BadInputError(f"a live model object needs target hf, not {target!r}")
    if target != "openvino":
        raise BadInputError(f"unknown target {target!r}; known: auto, openvino, hf")
    if device.device.startswith("cuda"):
        raise BadInputError(f"device {device.device} needs target hf, not openvino")
    if device.exact_width:
        raise BadInputError("exact_width is for target hf; on openvino the width of a forward pass does not change a token")
    source: str | Source = str(model)
    if precision == "auto":
        source = source_of(str(model))
        precision = auto_precision(source)
    found = converted(source, precision, num_layers)
    facts = {"vocab_size": found.vocab_size, "max_len": found.max_len, "base": found.base}
    role = {"hidden": False, "num_frequent": NUM_FREQUENT} if is_draft else {}
    options = {**facts, **role, "precision": precision, "threads": threads}
    sizes = {"kv_cache_tokens": config.kv_cache_tokens, "prefix_cache_tokens": config.prefix_cache_tokens}
    with slow(f"loading {found.name} ..."):
        text = Background(lambda: tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_folder(found.folder))
        try:
            built = create_target("openvino", found.folder / "model.xml", meanwhile=text.start, **sizes, **options)
        finally:
            text.start()
    return found.name, built, text.result(), frozenset(found.eos_token_ids), precision


def kind_of(model: Any, target: str, device: DeviceConfig = ANY_DEVICE) -> str:
    """The target to use for this model, with `auto` resolved."""
    if target != "auto":
        return target
    if not isinstance(model, (str, Path)) or device.exact_width or device.device.startswith("cuda"):
        return "hf"
    return "hf" if device.device == "auto" and _has_cuda() else "openvino"


def _load_hf(
    model: Any, tokenizer: Any, precision: str, threads: int | None, config: EngineConfig, num_layers: int | None, device: DeviceConfig
) -> tuple[str, TargetModel, Tokenizer, frozenset[int], str]:
    from outpace.models import transformers_io

    name = "live model"
    if isinstance(model, (str, Path)):
        source = locate(str(model))
        with slow(f"loading {source.name} with torch ..."):
            name, live = source.name, transformers_io.load_for_hf(source.path, precision, threads, device.device)
            tokenizer = tokenizer or transformers_io.load_tokenizer(source.path)
    else:
        live = transformers_io.on_device(model, device.device)
    if tokenizer is None:
        raise BadInputError("pass the tokenizer that belongs to the live model: LLM(model, tokenizer=…)")
    text = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.from_transformers(tokenizer)
    if num_layers:
        live = transformers_io.first_layers(live, num_layers)
    sizes = {"max_len": config.max_model_len, "kv_cache_tokens": config.kv_cache_tokens}
    built = create_target("hf", live, **sizes, exact_width=device.exact_width)
    return name, built, text, frozenset(transformers_io.end_token_ids(live)), transformers_io.precision_of(live)


def _has_cuda() -> bool:
    """Whether torch can use an NVIDIA device. Checks for the driver first, so that machines without one never import torch."""
    if not Path("/proc/driver/nvidia/version").exists():
        return False
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


class Background(Generic[T]):
    """A call in a thread of its own. It waits for `start`, to be called just before work that leaves Python's lock free: a call that keeps
    the lock, such as reading a tokenizer, would hold up whatever comes before that work."""

    def __init__(self, call: Callable[[], T]):
        self._call, self._may_start, self._result = call, Event(), Future[T]()
        Thread(target=self._run, name="outpace-background", daemon=True).start()

    def start(self) -> None:
        """Let the call begin; the first time counts."""
        self._may_start.set()

    def result(self) -> T:
        """Wait for the call and return, or raise, what it did."""
        self.start()
        return self._result.result()

    def _run(self) -> None:
        self._may_start.wait()
        try:
            self._result.set_result(self._call())
        except BaseException as error:
            self._result.set_exception(error)
