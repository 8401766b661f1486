"""Heads in the layouts of other engines: read back, they draft the same; what cannot be expressed is refused and leaves nothing."""

import json
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helper_tools import random_eagle, random_medusa
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from typer.testing import CliRunner

from outpace.cli import app
from outpace.errors import BadInputError
from outpace.export import base as export_base
from outpace.export import exporter
from outpace.export.base import BaseModel
from outpace.export.medusa_layout import filled
from outpace.heads.eagle.weights import eagle_weights
from outpace.heads.format import DraftHeads
from outpace.heads.medusa.imports import load_medusa
from outpace.heads.medusa.weights import medusa_weights
from outpace.heads.runtime import EagleRows, build_eagle, build_heads
from outpace.models.find import Source
from outpace.models.transformers_io import load_model
from outpace.targets.base import Embeddings, LMHead
from outpace.targets.identity import Base


def without_projections(helper: DraftHeads) -> DraftHeads:
    tensors = {name: tensor for name, tensor in helper.tensors.items() if "projection" not in name}
    return DraftHeads(helper.kind, helper.base, helper.settings, tensors)


def guesses(helper: DraftHeads, model: BaseModel, hidden: np.ndarray, top: int = 1):
    """[rows, K, top] tokens as outpace's reference runs them."""
    return build_heads(medusa_weights(helper), LMHead("numpy", model.lm_head(), 96), top)(hidden)[0]


# ---- Medusa heads


@pytest.mark.parametrize("engine", ["vllm", "tgi"])
@pytest.mark.parametrize("is_projected", [True, False])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("reduced", [None, 20])
@pytest.mark.parametrize("layers", [1, 2])
def test_exported_heads_guess_the_same(tmp_path, model, place, engine, is_projected, own, reduced, layers):
    helper = random_medusa(model.base, 3, layers, own, reduced, settings={"temperatures": [0.5, 1.0, 2.0]})
    helper = helper if is_projected else without_projections(helper)
    helper.save_pretrained(tmp_path / "heads")
    exporter(engine)(tmp_path / "heads", tmp_path / "out", place)
    found = load_medusa(tmp_path / "out", model.base)
    hidden = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
    want, got = (guesses(one, model, hidden) for one in (helper, found))
    assert len(np.unique(want)) > 10
    assert (want == got).mean() > 0.99  # rounding the folded matrices to float16 may decide a near tie
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_layout_of_vllm(tmp_path, model, place):
    """One LM head where all heads share it, over all tokens: vLLM 0.32 loads no token_map."""
    shared = without_projections(random_medusa(model.base, 3, 1, False, 20))
    shared.save_pretrained(tmp_path / "shared")
    exporter("vllm")(tmp_path / "shared", tmp_path / "out", place)
    config, tensors = json.loads((tmp_path / "out" / "config.json").read_text()), load_file(tmp_path / "out" / "model.safetensors")
    assert config == {
        "architectures": ["MedusaModel"],
        "model_type": "medusa",
        "num_heads": 3,
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "vocab_size": 96,
        "truncated_vocab_size": 96,
        "medusa_fc_bias": True,
        "original_lm_head": True,
    }
    blocks = {f"blocks.{head}.layers.0.{part}" for head in range(3) for part in ("weight", "bias")}
    assert tensors.keys() == blocks | {"lm_heads.0.weight"}
    kept, matrix = shared.tensors["vocab_ids"], tensors["lm_heads.0.weight"]
    np.testing.assert_allclose(matrix[kept], model.lm_head()[kept], rtol=1e-3, atol=1e-6)
    assert len(np.unique(np.delete(matrix, kept, axis=0), axis=0)) == 1


@pytest.mark.parametrize("own", [True, False])
def test_projected_heads_have_lm_heads_of_their_own(tmp_path, model, place, own):
    random_medusa(model.base, 2, 1, own, 20).save_pretrained(tmp_path / "heads")
    exporter("vllm")(tmp_path / "heads", tmp_path / "out", place)
    config, tensors = json.loads((tmp_path / "out" / "config.json").read_text()), load_file(tmp_path / "out" / "model.safetensors")
    assert not config["original_lm_head"]
    assert {tensors[f"lm_heads.{head}.weight"].shape for head in range(2)} == {(96, 64)}


def test_the_layout_of_tgi(tmp_path, model, place):
    random_medusa(model.base, 2, 2).save_pretrained(tmp_path / "heads")
    command = exporter("tgi")(tmp_path / "heads", tmp_path / "a folder", place)
    assert shlex.split(command) == ["text-generation-launcher", "--model-id", str(tmp_path / "a folder")]
    config = json.loads((tmp_path / "a folder" / "config.json").read_text())
    assert config == {"base_model_name_or_path": place, "medusa_num_heads": 2, "medusa_num_layers": 2}
    tensors = load_file(tmp_path / "a folder" / "medusa_lm_head.safetensors")
    blocks = {f"{head}.{layer}.linear.{part}" for head in range(2) for layer in range(2) for part in ("weight", "bias")}
    assert tensors.keys() == blocks | {"0.2.weight", "1.2.weight"}


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_a_token_outside_the_reduced_vocabulary_is_never_the_likeliest(size, seed):
    rng = np.random.default_rng(seed)
    kept, matrix = rng.choice(40, size, replace=False), rng.normal(size=(size, 8)).astype(np.float32)
    whole, hidden = filled(matrix, kept, 40), rng.normal(size=8)
    assert whole.shape == (40, 8)
    assert int((whole @ hidden).argmax()) == kept[int((matrix @ hidden).argmax())]


def test_heads_of_others_change_layout(tmp_path, model, place):
    """From vLLM's layout to TGI's: such a folder does not name its model, --model does."""
    random_medusa(model.base, 2).save_pretrained(tmp_path / "heads")
    exporter("vllm")(tmp_path / "heads", tmp_path / "first", place)
    exporter("tgi")(tmp_path / "first", tmp_path / "second", place)
    hidden = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
    first, second = (guesses(load_medusa(tmp_path / name, model.base), model, hidden) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(BadInputError, match="name it with --model"):
        exporter("tgi")(tmp_path / "first", tmp_path / "third", None)


def test_a_gguf_model_is_written_beside_the_heads(tmp_path, model, place, monkeypatch):
    """Engines read folders; the copy has the fingerprint of the model it came from."""
    tokenizer, live = export_base.load_tokenizer, load_model(model.source.path, "float32")
    monkeypatch.setattr(export_base, "load_in_f32", lambda name: (live, Source(name, tmp_path / "tiny.gguf")))
    monkeypatch.setattr(export_base, "load_tokenizer", lambda path: tokenizer(model.source.path))
    random_medusa(model.base, 2).save_pretrained(tmp_path / "heads")
    command = exporter("vllm")(tmp_path / "heads", tmp_path / "out", "tiny")
    assert shlex.split(command)[2] == str(tmp_path / "out" / "base")
    monkeypatch.undo()
    assert BaseModel.of(str(tmp_path / "out" / "base")).base.fingerprint == model.base.fingerprint
    assert (tmp_path / "out" / "base" / "tokenizer.json").is_file()
    readable = 0o666 & (tmp_path / "out").stat().st_mode
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()} == {readable}


# ---- what is refused


def no_blocks(helper: DraftHeads, folder) -> None:
    DraftHeads("medusa", helper.base, {**helper.settings, "num_layers": 0}, {"heads.0.projection.weight": np.eye(64)}).save_pretrained(
        folder
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda helper, folder: DraftHeads("blanks", helper.base, {}, {}).save_pretrained(folder), "kind 'blanks', not medusa"),
        (lambda helper, folder: no_blocks(helper, folder), "have no blocks"),
        (lambda helper, folder: random_medusa(Base("x", "f" * 16, 64, 96)).save_pretrained(folder), "with other weights"),
        (lambda helper, folder: random_medusa(Base("x", "f" * 16, 8, 96)).save_pretrained(folder), "hidden_size 8"),
        (lambda helper, folder: shutil.rmtree(folder), "there are no heads in"),
    ],
)
def test_what_other_engines_cannot_run_is_refused(tmp_path, model, place, change, message):
    helper = random_medusa(model.base, 1)
    helper.save_pretrained(tmp_path / "heads")
    change(helper, tmp_path / "heads")
    with pytest.raises(BadInputError, match=message) as caught:
        exporter("vllm")(tmp_path / "heads", tmp_path / "out", place)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bias_of_the_lm_head_has_no_place(tmp_path, model, place, monkeypatch):
    biased = BaseModel(model.source, SimpleNamespace(get_output_embeddings=lambda: torch.nn.Linear(64, 96)), model.base)
    monkeypatch.setattr(BaseModel, "of", lambda _: biased)
    random_medusa(model.base, 1).save_pretrained(tmp_path / "shared")
    random_medusa(model.base, 1, own=True).save_pretrained(tmp_path / "own")
    with pytest.raises(BadInputError, match="has a bias"):
        exporter("tgi")(tmp_path / "shared", tmp_path / "out", place)
    exporter("tgi")(tmp_path / "own", tmp_path / "out", place)


def test_weights_too_large_for_float16_leave_no_folder(tmp_path, model, place):
    helper = random_medusa(model.base, 1)
    helper.tensors["heads.0.projection.weight"] = np.full((64, 64), 60_000, np.float16)
    helper.save_pretrained(tmp_path / "heads")
    with pytest.raises(BadInputError, match="float16"):
        exporter("vllm")(tmp_path / "heads", tmp_path / "out", place)
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


def test_a_folder_in_use_stays_as_it_is(tmp_path, model, place):
    random_medusa(model.base, 1).save_pretrained(tmp_path / "heads")
    (tmp_path / "out").mkdir()
    exporter("vllm")(tmp_path / "heads", tmp_path / "out", place)  # an empty one will do
    before = (tmp_path / "out" / "config.json").read_bytes()
    with pytest.raises(BadInputError, match="already exists"):
        exporter("tgi")(tmp_path / "heads", tmp_path / "out", place)
    assert (tmp_path / "out" / "config.json").read_bytes() == before


def test_a_folder_in_use_is_told_before_the_model_is_loaded(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    for out in (tmp_path / "out", tmp_path / "out" / "notes.txt"):
        result = CliRunner().invoke(app, ["export", "vllm", str(tmp_path / "heads"), str(out), "--model", "no/such/model"])
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [f"error: {out} already exists; choose a new folder"]


# ---- EAGLE heads


def test_the_layout_of_an_eagle_head(tmp_path, model, place):
    """vLLM reads the config as transformers' Llama does, and the layer with these weights is the one that outpace runs."""
    helper = random_eagle(model.base, 4, 2, 16, 20)
    helper.save_pretrained(tmp_path / "head")
    words = shlex.split(exporter("vllm")(tmp_path / "head", tmp_path / "out", place))
    assert words[:4] == ["vllm", "serve", place, "--speculative-config"]
    assert json.loads(words[4]) == {"method": "eagle", "model": str(tmp_path / "out"), "num_speculative_tokens": 4}
    config, tensors = AutoConfig.from_pretrained(tmp_path / "out"), load_file(tmp_path / "out" / "model.safetensors")
    assert config.architectures == ["EagleLlamaForCausalLM"]
    assert (config.vocab_size, config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (96, 256, 10000.0)
    layer = LlamaDecoderLayer(config, 0)
    layer.input_layernorm = torch.nn.Identity()
    layer.load_state_dict({name.removeprefix("layers.0."): torch.from_numpy(t).float() for name, t in tensors.items() if "layers" in name})
    rng, weights = np.random.default_rng(0), eagle_weights(helper)
    features, token_ids = rng.normal(size=(1, 5, 64)).astype(np.float32), rng.integers(0, 96, (1, 5))
    embeddings = model.live.get_input_embeddings().weight.detach().numpy()
    x = torch.from_numpy(np.concatenate([embeddings[token_ids], features], 2)) @ torch.from_numpy(tensors["fc.weight"]).float().T
    places = torch.arange(5)[None]
    mask = torch.full((5, 5), -1e9).triu(1)[None, None]
    with torch.inference_mode():
        want = layer(x, attention_mask=mask, position_embeddings=LlamaRotaryEmbedding(config)(x, places), position_ids=places)
    head = build_eagle(weights, Embeddings(embeddings), LMHead("numpy", model.lm_head(), 96), 5)
    past = np.zeros((1, 2, 0, 16), np.float32)
    sees = np.tri(5, dtype=bool)[None]
    rows = EagleRows(token_ids, features, places.numpy().astype(np.float32), np.arange(5)[None], past, past, sees, np.ones((1, 5)))
    np.testing.assert_allclose(head(rows).features, want, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda helper: helper.tensors.pop("fc.weight"), r"do not fit: fc\.weight must be \[64, 128\], not missing"),
        (lambda helper: helper.tensors.update({"norm.weight": np.ones(64)}), "not use: norm.weight"),
        (lambda helper: helper.settings.pop("rope_theta"), "rope_theta must be a number"),
    ],
)
def test_an_eagle_head_that_is_not_whole_is_refused(tmp_path, model, place, change, message):
    helper = random_eagle(model.base)
    change(helper)
    helper.save_pretrained(tmp_path / "head")
    with pytest.raises(BadInputError, match=message):
        exporter("vllm")(tmp_path / "head", tmp_path / "out", place)
    random_eagle(Base("x", "f" * 16, 64, 96)).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInputError, match=r"do not fit: they were made for x .* with other weights"):
        exporter("vllm")(tmp_path / "other", tmp_path / "out", place)
    with pytest.raises(BadInputError, match="kind 'eagle', not medusa"):
        exporter("tgi")(tmp_path / "head", tmp_path / "out", place)
    assert not (tmp_path / "out").exists()
