"""Which device and which target run a model, and checkpoints that are quantised already."""

from __future__ import annotations

import json

import pytest

from outpace.config import DeviceConfig
from outpace.errors import BadInputError
from outpace.llm import LLM
from outpace.models.load import kind_of

torch = pytest.importorskip("torch")
from outpace.models import transformers_io

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "", 0, None])
def test_unknown_devices_are_refused(device):
    with pytest.raises(BadInputError, match="device must be auto, cpu, cuda or cuda:N"):
        DeviceConfig(device)


@pytest.mark.parametrize("width", [1, 0, -8, 2.5, True, "8"])
def test_widths_are_integers_of_at_least_two(width):
    with pytest.raises(BadInputError, match="exact_width must be an integer of at least 2"):
        DeviceConfig(exact_width=width)


@pytest.mark.parametrize(
    ("target", "device", "kind"),
    [
        ("auto", DeviceConfig("cuda:1"), "hf"),
        ("auto", DeviceConfig(exact_width=8), "hf"),
        ("auto", DeviceConfig("cpu"), "openvino"),
        ("hf", DeviceConfig("cpu"), "hf"),
        ("openvino", DeviceConfig(), "openvino"),
    ],
)
def test_the_device_chooses_the_target(target, device, kind):
    assert kind_of("tiny", target, device) == kind


def test_what_openvino_does_not_take_is_refused(tiny_models):
    folder = str(tiny_models["llama"])
    for options, message in (({"device": "cuda"}, "device cuda needs target hf"), ({"exact_width": 8}, "exact_width is for target hf")):
        with pytest.raises(BadInputError, match=message):
            LLM(folder, "none", target="openvino", **options)


@NO_CUDA
def test_a_device_that_is_not_there_is_refused(tiny_models):
    for device in ("cuda", "cuda:3"):
        with pytest.raises(BadInputError, match=f"there is no device {device}; torch .* sees 0 CUDA devices"):
            LLM(str(tiny_models["llama"]), "none", device=device)
    with pytest.raises(BadInputError, match="there is no device cuda"):
        transformers_io.on_device(torch.nn.Linear(1, 1), "cuda")


def test_a_width_reaches_the_target_but_not_its_draft_model(tiny_models):
    llm = LLM(str(tiny_models["llama"]), "draft_model:self:1", precision="bf16", exact_width=4, num_draft_tokens=2)
    assert llm.target.exact_width == 4
    assert llm.target.capabilities.exact_logits
    assert "-w4" in llm.target.fingerprint
    drafted = llm.generate([5, 6, 7], {"max_tokens": 12, "ignore_eos": True})[0]
    assert llm.generate([5, 6, 7], {"max_tokens": 12, "ignore_eos": True}, speculative_config="none")[0].token_ids == drafted.token_ids


def test_a_quantised_checkpoint_is_left_to_transformers(tiny_models, tmp_path, monkeypatch):
    config = json.loads((tiny_models["llama"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq", "bits": 4}}))
    seen = []
    monkeypatch.setattr(transformers_io, "load_model", lambda source, dtype, **options: seen.append((dtype, options)))
    transformers_io.load_for_hf(tmp_path, "auto", None, "cpu")
    assert seen == [("auto", {"device_map": {"": "cpu"}})]
    with pytest.raises(BadInputError, match=r"quantised \(awq\) and has no precision 'bf16'"):
        transformers_io.load_for_hf(tmp_path, "bf16", None, "cpu")


@NO_CUDA
def test_precision_follows_the_device(tiny_models):
    assert transformers_io.find_device("auto") == "cpu"
    for precision, dtype in (("auto", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        assert transformers_io.load_for_hf(tiny_models["llama"], precision, None, "cpu").dtype == dtype
