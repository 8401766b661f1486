"""Sliding windows in GGUF files: logits and texts are those of transformers' Mistral, across the edge; and a trial before storing."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_tools import Sizes, write_model

from outpace.errors import BadInputError
from outpace.models.gguf.to_openvino import convert
from outpace.targets.openvino.target import OpenVINOTarget

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[3] / "dev"))
import families

from outpace.models.transformers_io import load_model

WINDOW = 24  # every prompt but the first crosses its edge


def target_of(path: Path, out: Path) -> OpenVINOTarget:
    out.mkdir()
    convert(path, out, "f32")
    facts = json.loads((out / "config.json").read_text())
    assert not (out / "sizes.json").exists()
    sizes = {"vocab_size": facts["vocab_size"], "max_len": facts["max_len"]}
    return OpenVINOTarget(out / "model.xml", precision="f32", kv_cache_tokens=2048, **sizes)


def with_windows(path: Path, layer_types: list[str]):
    """The weights of a file, which transformers reads as Llama, in its model that masks by windows."""
    plain = load_model(path, torch.float32)
    settings = {key: value for key, value in plain.config.to_dict().items() if key not in ("model_type", "architectures")}
    config = transformers.MinistralConfig(**(settings | {"sliding_window": WINDOW, "layer_types": layer_types}))
    model = transformers.MinistralForCausalLM(config)
    model.load_state_dict(plain.state_dict())
    return model.eval()


@pytest.mark.parametrize("pattern", [None, 2])
def test_texts_cross_the_edge_of_the_window_as_in_transformers(tmp_path, pattern):
    """Chunks, batches, greedy and sampled, with drafts that are rejected."""
    path = write_model(tmp_path / "m.gguf", "llama", "F32", Sizes(), window=WINDOW, pattern=pattern)
    types = ["sliding_attention", "sliding_attention" if pattern is None else "full_attention"]
    model, texts = with_windows(path, types), families.prompts()
    with torch.inference_mode():
        expected = model(torch.tensor([texts[-1]]), use_cache=False).logits[0].numpy()
    target = target_of(path, tmp_path / "out")
    assert target.capabilities.max_len == 256
    assert families.fault_of(target, texts, [families.greedy(model, text) for text in texts], expected) == ""


def test_a_window_that_the_model_does_not_mask_by_limits_the_text(tmp_path, caplog):
    """With torch the file is read as Llama, which knows no windows."""
    from outpace.targets.hf.target import HFTarget

    model = load_model(write_model(tmp_path / "m.gguf", "llama", "F32", Sizes(), window=WINDOW), torch.float32)
    with caplog.at_level(logging.WARNING, "outpace"):
        assert HFTarget(model).capabilities.max_len == WINDOW
    assert f"texts are limited to {WINDOW} tokens by the model's sliding window" in caplog.text


def test_a_converted_file_is_tried_before_it_is_stored(tmp_path, monkeypatch):
    """In two chunks and as a tree it must give what it gives at once."""
    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0")
    run = OpenVINOTarget.forward

    def change(how) -> str:
        monkeypatch.setattr(OpenVINOTarget, "forward", lambda self, batch, num_tokens=0: how(self, batch, run(self, batch, num_tokens)))
        with pytest.raises(BadInputError) as caught:
            convert(path, tmp_path, "int8")
        assert not (tmp_path / "config.json").exists()
        return str(caught.value)

    def a_little(_, batch, output):
        return replace(output, logits=np.nextafter(output.logits, np.inf)) if batch[0].slot.num_cached else output

    def in_trees(_, batch, output):
        return replace(output, logits=-output.logits) if batch[0].parents and batch[0].slot.num_cached else output

    def not_a_number(_, batch, output):
        return replace(output, logits=output.logits * np.nan)

    assert change(a_little) == "the converted model is wrong (a text in two chunks has other logits); use --target hf"
    assert change(in_trees).startswith("the converted model is wrong (in a tree its logits are ")
    assert change(not_a_number) == "the converted model is wrong (its logits are no numbers); use --target hf"


@pytest.mark.parametrize(("precision", "is_refused"), [("f32", True), ("int8", False), ("int4", False), ("bf16", False)])
def test_rounding_of_activations_is_no_fault(tmp_path, monkeypatch, precision, is_refused):
    """In a tree, coder-0.5b in int4 is off by 2% of the spread of its logits."""
    path = write_model(tmp_path / "m.gguf", "llama", "F32")
    monkeypatch.setattr("outpace.targets.openvino.trial.tree_error", lambda *_: 0.02)
    if is_refused:
        with pytest.raises(BadInputError, match="in a tree its logits are 2% off"):
            convert(path, tmp_path, precision)
    else:
        convert(path, tmp_path, precision)
        assert (tmp_path / "config.json").exists()


def test_reading_a_file_with_torch_shows_no_bar(tmp_path, capsys):
    from transformers import modeling_gguf_pytorch_utils as gguf_reader

    bar = gguf_reader.tqdm
    load_model(write_model(tmp_path / "m.gguf", "llama", "Q8_0"), torch.float32)
    assert "%" not in capsys.readouterr().err
    assert gguf_reader.tqdm is bar
