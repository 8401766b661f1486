"""Model folders that cannot give the right text are refused, in one line that says why, and never run code of their own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from model_tools import model_folder

from outpace.errors import BadInputError
from outpace.models import transformers_io
from outpace.models.find import locate
from outpace.models.refusal import refuse_quantized

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file

SIZES = {"vocab_size": 96, "d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "init_std": 0.3}


def refused(call, *arguments) -> str:
    with pytest.raises(BadInputError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(tiny_models, folder: Path, change) -> Path:
    """The tiny Llama with other weights: `change` gets and returns them by name."""
    shutil.copytree(tiny_models["llama"], folder)
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# ---- weights that are not there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "lm_head.weight"}, "the files lack the weights lm_head.weight"),
        (
            lambda w: {k.removeprefix("model."): v for k, v in w.items() if k != "lm_head.weight"},
            "the files lack the weights lm_head.weight",
        ),
        (
            lambda w: {k: v for k, v in w.items() if "layers.1." not in k},
            "the files lack the weights model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weight, "
            "model.layers.1.mlp.gate_proj.weight and 6 more",
        ),
        (
            lambda w: {"foo." + k: v for k, v in w.items()},
            "the files lack the weights lm_head.weight, model.embed_tokens.weight, model.layers.0.input_layernorm.weight and 18 more, "
            "and have others that the model does not: foo.lm_head.weight, foo.model.embed_tokens.weight, "
            "foo.model.layers.0.input_layernorm.weight and 18 more",
        ),
        (
            lambda w: {k: v[:, :32].contiguous() if "0.self_attn.o_proj" in k else v for k, v in w.items()},
            "model.layers.0.self_attn.o_proj.weight is [64, 32] in the files, and its config says [64, 64]",
        ),
    ],
    ids=["no head", "base model", "no layer", "renamed", "shape"],
)
def test_weights_are_never_made_up(tiny_models, tmp_path, change, message):
    folder = changed(tiny_models, tmp_path / "m", change)
    assert refused(transformers_io.load_model, folder, torch.float32) == f"cannot load {folder}: {message}"


def test_a_classifier_has_no_head(tiny_models, tmp_path):
    config = transformers.AutoConfig.from_pretrained(tiny_models["llama"])
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path / "m")
    message = refused(transformers_io.load_model, tmp_path / "m", torch.float32)
    assert message.endswith("the files lack the weights lm_head.weight, and have others that the model does not: score.weight")


def test_a_tied_head_and_names_without_their_prefix_are_whole(tiny_models, tmp_path):
    folder = changed(tiny_models, tmp_path / "m", lambda w: {k.removeprefix("model."): v for k, v in w.items()})
    tokens = torch.tensor([[5, 6, 7]])
    expected = transformers_io.load_model(tiny_models["llama"], torch.float32)(tokens).logits
    assert torch.equal(transformers_io.load_model(folder, torch.float32)(tokens).logits, expected)
    tied = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=2)).eval()
    tied.save_pretrained(tmp_path / "tied")
    assert torch.equal(transformers_io.load_model(tmp_path / "tied", torch.float32)(tokens).logits, tied(tokens).logits)


# ---- models that the converter must not take


@pytest.mark.parametrize("family", ["Pegasus", "Blenderbot", "Marian", "PLBart", "Bart"])
def test_models_that_take_no_positions(tiny_models, tmp_path, family):
    """Their positions come from the length of the cache, so trees would be wrong; `**kwargs` takes the positions given and drops them."""
    convert = pytest.importorskip("outpace.models.convert")
    config = getattr(transformers, f"{family}Config")(**SIZES, is_encoder_decoder=False, pad_token_id=1)
    getattr(transformers, f"{family}ForCausalLM")(config).save_pretrained(tmp_path / "m")
    for file in tiny_models["llama"].glob("tokenizer*"):
        shutil.copy(file, tmp_path / "m")
    (tmp_path / "out").mkdir()
    message = refused(convert.convert, tmp_path / "m", tmp_path / "out", "f32", None, lambda stage: None)
    assert message.startswith(f"{family}ForCausalLM takes no position ids")


def test_a_model_that_says_it_takes_positions_and_counts_them_itself(tiny_models, tmp_path, monkeypatch):
    """No target runs it, so the refusal names none."""
    convert = pytest.importorskip("outpace.models.convert")

    class Deaf(transformers.LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
            return super().forward(input_ids, attention_mask, past_key_values=past_key_values, use_cache=use_cache)

    def load(source, dtype, **options):
        return Deaf.from_pretrained(source, dtype=dtype, **options).eval()

    monkeypatch.setattr(convert, "load_model", load)
    message = refused(convert.convert, tiny_models["llama"], tmp_path, "f32", None, lambda stage: None)
    assert re.fullmatch(r"Deaf ignores the mask or positions \(logits \d+% off\); use another model", message)
    assert torch.is_grad_enabled()


def test_the_converted_model_is_compared_with_the_original(tiny_models, tmp_path, monkeypatch):
    convert = pytest.importorskip("outpace.models.convert")
    out = tmp_path / "out"
    out.mkdir()
    stages: list[str] = []
    convert.convert(tiny_models["llama"], out, "f32", None, stages.append)
    assert stages == ["loading the weights", "tracing the model", "writing the model", "comparing it with the original"]
    assert (out / "config.json").is_file()
    assert not (out / "sizes.json").exists()  # it would be kept under the name of this folder
    plain = convert.plain_logits
    monkeypatch.setattr(convert, "plain_logits", lambda model: 1.1 * plain(model))
    message = refused(convert.convert, tiny_models["llama"], out, "f32", None, lambda stage: None)
    assert re.fullmatch(r"the converted model is wrong \(its logits are (9|10)% off\); use --target hf", message)


def test_a_model_that_openvino_cannot_load(tmp_path):
    convert = pytest.importorskip("outpace.models.convert")
    (tmp_path / "model.xml").write_text("<net/>")
    message = refused(convert.compare, tmp_path / "model.xml", torch.zeros(6, 96).numpy(), 0.01)
    assert message.startswith("OpenVINO cannot run the converted model: ")
    assert message.endswith("; use --target hf")


def test_encoder_decoder_folders(tmp_path):
    folder = model_folder(tmp_path / "m", is_encoder_decoder=True, architectures=["T5ForConditionalGeneration"])
    assert refused(locate, str(folder)) == f"{folder} is an encoder-decoder model (T5ForConditionalGeneration); use a decoder-only one"


@pytest.mark.parametrize("is_beside", [False, True])
def test_adapters(tmp_path, is_beside):
    """Beside a model too: transformers would leave it out."""
    folder = model_folder(tmp_path / "m", model_type="llama")
    if not is_beside:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    message = f"{folder} holds an adapter of org/base: merge it into that model first, and give the folder of the merged model"
    assert refused(locate, str(folder)) == message


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8"])
def test_quantized_folders(tmp_path, method):
    folder = model_folder(tmp_path / "m", quantization_config={"quant_method": method})
    message = f"its weights are quantized with {method}, which cannot be converted; use the original model or a .gguf file"
    assert refused(refuse_quantized, folder) == message


def test_a_folder_without_a_tokenizer(tiny_models, tmp_path):
    """Said before the weights are loaded."""
    convert = pytest.importorskip("outpace.models.convert")
    folder = tmp_path / "m"
    shutil.copytree(tiny_models["llama"], folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "model.safetensors").unlink()
    stages: list[str] = []
    message = refused(convert.convert, folder, tmp_path, "f32", None, stages.append)
    assert message == f"cannot load the tokenizer of {folder}: there is no tokenizer.json, nor anything that one could be made of here"
    assert stages == []


def test_a_model_that_is_no_language_model(tmp_path):
    transformers.ViTConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path)
    assert refused(transformers_io.load_model, tmp_path, torch.float32) == f"cannot load {tmp_path}: ViT is no causal language model"


# ---- code in a model's folder


@pytest.fixture
def with_code(tiny_models, tmp_path, monkeypatch) -> Path:
    """A folder whose config asks for its own code, which leaves a file; and a user who would say yes."""
    folder = tmp_path / "m"
    shutil.copytree(tiny_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine", "auto_map": names}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}})
    )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return folder


def test_code_in_the_folder_never_runs(with_code):
    message = refused(transformers_io.load_model, with_code, torch.float32)
    assert message == f"cannot load {with_code}: it needs Python code from its folder, which outpace never runs"
    assert refused(transformers_io.load_tokenizer, with_code).endswith("it needs Python code from its folder, which outpace never runs")
    assert not (with_code.parent / "ran").exists()
