"""GGUF files read without torch: the same logits, tokens and fingerprint as transformers reads in them, and clear words for the others."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from gguf_tools import Sizes, add_byte_tokenizer, write_model

from outpace.errors import BadInputError
from outpace.models.gguf import tokenizer_json as tokenizers
from outpace.models.gguf.file import GGUFFile, read
from outpace.models.gguf.model_config import config_of
from outpace.models.gguf.support import reason_against
from outpace.models.gguf.to_openvino import convert
from outpace.models.tokenizer import Tokenizer
from outpace.targets.openvino import graphs
from outpace.targets.openvino.target import OpenVINOTarget
from outpace.tree.segment import Segment

TEXTS = ["hello world 12 123!", "Tabs\tand\n\nlines  12", "naïve 你好 🤖", "<|300|>hello<|319|>", "", "   "]
PROMPT = np.random.default_rng(0).integers(0, 320, 40).tolist()


def converted(path: Path, out: Path, precision: str) -> tuple[OpenVINOTarget, dict]:
    out.mkdir()
    convert(path, out, precision)
    facts = json.loads((out / "config.json").read_text())
    sizes = {"vocab_size": facts["vocab_size"], "max_len": min(facts["max_len"], 1024)}
    kind = "f32" if precision == "f32" else "int8"
    return OpenVINOTarget(out / "model.xml", precision=kind, kv_cache_tokens=2048, **sizes), facts


def logits_of(target: OpenVINOTarget, tokens: list[int]) -> np.ndarray:
    slot = target.allocate(len(tokens))
    logits = target.forward([Segment(slot, tokens)]).logits.copy()
    target.free(slot)
    return logits


def in_transformers(path: Path):
    """The same file as transformers reads it."""
    torch = pytest.importorskip("torch")
    from outpace.models.transformers_io import load_model

    return load_model(path, torch.float32)


CASES = [("llama", "Q8_0", True), ("llama", "Q4_0", False), ("qwen2", "Q5_0", True), ("qwen2", "Q6_K", False), ("qwen3", "Q4_K", True)]
CASES += [("qwen3", "F16", False), ("llama", "Q4_1", True), ("qwen2", "Q5_K", True), ("llama", "BF16", True), ("qwen3", "F32", True)]


@pytest.mark.parametrize(("architecture", "kind", "is_tied"), CASES)
def test_logits_and_fingerprint_are_those_of_transformers(tmp_path, architecture, kind, is_tied):
    import torch

    from outpace.targets.identity import base_of

    path = write_model(tmp_path / "m.gguf", architecture, kind, is_tied=is_tied)
    assert reason_against(path) == ""
    model = in_transformers(path)
    with torch.inference_mode():
        theirs = model(torch.tensor([PROMPT])).logits[0].numpy()
    target, facts = converted(path, tmp_path / "f32", "f32")
    np.testing.assert_allclose(logits_of(target, PROMPT), theirs, atol=1e-3 * np.abs(theirs).max())
    base = base_of(model, "m")
    assert (facts["fingerprint"], facts["vocab_size"], facts["hidden_size"]) == (base.fingerprint, base.vocab_size, base.hidden_size)
    assert facts["max_len"] == model.config.max_position_embeddings
    small = logits_of(converted(path, tmp_path / "int8", "int8")[0], PROMPT)
    assert np.corrcoef(small.ravel(), theirs.ravel())[0, 1] > 0.99
    assert (small.argmax(1) == theirs.argmax(1)).mean() > 0.7


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_four_bits_are_near_and_have_the_same_bits_in_every_width(tmp_path, architecture):
    path = write_model(tmp_path / "m.gguf", architecture, "Q8_0", is_tied=False)
    wide = logits_of(converted(path, tmp_path / "f32", "f32")[0], PROMPT)
    target, _ = converted(path, tmp_path / "int4", "int4")
    near = logits_of(target, PROMPT)
    assert np.corrcoef(near.ravel(), wide.ravel())[0, 1] > 0.8
    for width in (2, 3, 8, 17):
        assert np.array_equal(logits_of(target, PROMPT[:width]), near[:width])
    assert "u4" in {c.get_element_type().get_type_name() for c in ov.Core().read_model(target.path).get_ops() if not c.inputs()}


def test_surgery_finds_its_places(tmp_path):
    """LM head, embeddings, vectors in the place of tokens, low-rank weights."""
    from outpace.targets.low_rank import LowRank

    target, _ = converted(write_model(tmp_path / "m.gguf", "qwen2", "Q8_0", is_tied=False), tmp_path / "int4", "int4")
    assert target.capabilities.num_vectors
    slot = target.allocate(64)
    output = target.forward([Segment(slot, PROMPT)])
    head = ov.Core().compile_model(target.lm_head().module, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (logits,) = head(output.hidden[None]).values()
    np.testing.assert_allclose(logits[0], output.logits, atol=0.02 * np.abs(logits).max())
    before = output.logits.copy()
    rng = np.random.default_rng(1)
    low_rank = LowRank(*(rng.standard_normal((2, *shape)).astype(np.float32) for shape in ((256, 3), (3, 256))))
    first = target.add_vectors(rng.standard_normal((2, 256)).astype(np.float32), low_rank)
    assert np.isfinite(target.forward([Segment(slot, [first, first + 1])]).logits).all()
    assert np.array_equal(target.forward([Segment(slot, PROMPT)]).logits, before)
    assert graphs.embeddings(ov.Core().read_model(target.path)).outputs[0].partial_shape[2].get_length() == 256


def test_the_first_layers(tmp_path):
    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0", Sizes(num_layers=3))
    one = write_model(tmp_path / "one.gguf", "llama", "Q8_0", Sizes(num_layers=1))
    for folder, source, layers in (("a", path, 1), ("b", one, None)):
        (tmp_path / folder).mkdir()
        convert(source, tmp_path / folder, "int8", layers)
    first, second = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in "ab")
    assert first.keys() == second.keys()
    with pytest.raises(BadInputError, match="the model has 3 layers; its first 4 cannot be had"):
        convert(path, tmp_path / "a", "int8", 4)


# ---- facts


def facts_of(path: Path, **more: object) -> GGUFFile:
    file = read(path)
    return GGUFFile(file.path, {**file.facts, **{f"llama.{name.replace('__', '.')}": value for name, value in more.items()}}, file.tensors)


def test_rotary_embeddings_are_scaled_as_the_file_says(tmp_path):
    """Llama 3's factors are those that transformers computes of its config."""
    pytest.importorskip("torch")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0")
    plain = config_of(read(path)).inverse_frequencies
    np.testing.assert_allclose(plain, 10000.0 ** -(np.arange(0, 64, 2) / 64), rtol=1e-5)
    linear = facts_of(path, rope__scaling__type="linear", rope__scaling__factor=4.0)
    np.testing.assert_allclose(config_of(linear).inverse_frequencies, plain / 4)
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 10000.0}
    scaling["original_max_position_embeddings"] = 64
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=256, rope_parameters=scaling)
    theirs = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    factors = write_model(tmp_path / "f.gguf", "llama", "Q8_0", factors=(plain / theirs).astype(np.float32))
    np.testing.assert_allclose(config_of(read(factors)).inverse_frequencies, theirs, rtol=1e-5)
    assert reason_against(factors) == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rope__scaling__type": "yarn"}, "rope scaling 'yarn' is not supported; supported: none, linear, Llama 3's factors"),
        ({"rope__dimension_count": 32}, "keys, values and rotary embedding differ in width"),
        ({"attention__value_length": 32}, "keys, values and rotary embedding differ in width"),
        ({"block_count": None}, r"m.gguf does not say llama.block_count"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, more, message):
    file = facts_of(write_model(tmp_path / "m.gguf", "llama", "Q8_0"), **more)
    with pytest.raises(BadInputError, match=message):
        config_of(file)


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [(None, (100,) * 4), (2, (100, 0, 100, 0)), (4, (100, 100, 100, 0)), ([False, True, True, False, True], (0, 100, 100, 0))],
)
def test_a_sliding_window_limits_no_text(tmp_path, pattern, windows):
    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0", Sizes(num_layers=4), window=100, pattern=pattern)
    config = config_of(read(path))
    assert (config.windows, config.max_len) == (windows, 256)
    assert config.first_layers(3).windows == windows[:3]
    assert reason_against(path) == ""


def test_a_pattern_of_windows_must_name_every_layer(tmp_path):
    with pytest.raises(BadInputError, match="sliding_window_pattern names 1 of 2 layers"):
        config_of(read(write_model(tmp_path / "m.gguf", "llama", "Q8_0", window=100, pattern=[True])))


# ---- tokenizers


def saved(path: Path, folder: Path) -> Tokenizer:
    folder.mkdir()
    tokenizers.save_tokenizer(read(path).facts, folder)
    return Tokenizer.from_folder(folder)


def test_byte_level_tokens_are_those_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    from outpace.models.transformers_io import load_tokenizer

    path = write_model(tmp_path / "m.gguf", "qwen2", "Q8_0")
    ours, theirs = saved(path, tmp_path / "t"), Tokenizer.from_transformers(load_tokenizer(path))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.special == {key: value for key, value in theirs.special.items() if key in ours.special}
    assert ours.encode_chat([{"role": "user", "content": "hello"}]) == theirs.encode("hello")


def sentencepiece_file(path: Path, **facts: bool) -> Path:
    """Only a vocabulary: pieces with scores, bytes, special tokens."""
    from gguf import GGUFWriter

    pieces = ["▁", "h", "e", "l", "o", "w", "▁h", "he", "ll", "▁he", "llo", "▁hello", "▁w", "wo", "12"]
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *pieces]
    writer = GGUFWriter(path, "llama")
    writer.add_string("general.name", "random")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(len(pieces) - len(piece)) for piece in pieces])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * len(pieces)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for name, value in facts.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("facts", [{}, {"add_bos_token": False}, {"add_eos_token": True}])
def test_sentencepiece_tokens_are_those_of_transformers(tmp_path, facts):
    transformers = pytest.importorskip("transformers")
    path = sentencepiece_file(tmp_path / "v.gguf", **facts)
    theirs = Tokenizer.from_transformers(transformers.LlamaTokenizerFast.from_pretrained(tmp_path, gguf_file="v.gguf"))
    ours = saved(path, tmp_path / "t")
    for text in ["hello", "hello hello", " hello w12", "wo\nhé", "</s>hello", ""]:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours.encode("hello")[0] == (1 if facts.get("add_bos_token", True) else ours.fast.token_to_id("▁hello"))


def test_llama3_texts_begin_with_bos_and_digits_come_in_threes(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "v.gguf", "llama")
    add_byte_tokenizer(writer, 320, "llama-bpe")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = saved(tmp_path / "v.gguf", tmp_path / "t")
    ids = tokenizer.encode("hello 1234")
    assert ids[0] == 318
    assert [tokenizer.fast.id_to_token(i) for i in ids[1:]] == ["hello", "Ġ", "12", "3", "4"]


# ---- what is not read, and damaged files


def changed(path: Path, name: str, old: bytes, new: bytes) -> Path:
    other = path.with_name(name)
    data = path.read_bytes()
    assert data.count(old) >= 1
    other.write_bytes(data.replace(old, new))
    return other


def test_other_models_are_left_to_transformers(tmp_path):
    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0")
    gemma = changed(path, "g.gguf", b"llama", b"gemma")
    assert reason_against(gemma) == "architecture 'gemma' is none of llama, qwen2, qwen3"
    odd = changed(path, "o.gguf", b"qwen2", b"qwen9")
    assert reason_against(odd) == "its tokenizer cuts texts in a way that is not known: 'qwen9'"
    more = changed(path, "t.gguf", b"blk.1.ffn_up.weight", b"blk.1.ffn_uq.weight")
    assert reason_against(more) == "it has tensors that are not known: blk.1.ffn_uq.weight"
    with pytest.raises(BadInputError, match=r"t.gguf has no tensor blk.1.ffn_up.weight"):
        convert(more, tmp_path, "int8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"GGUG" + data[4:], "does not begin with 'GGUF'"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "its version is 9; known: 2, 3"),
        (lambda data: data[:200], "is no GGUF file that can be read"),
        (lambda data: data[:-5000], "is cut off: .* ends behind the end of the file"),
        (lambda data: b"GG", "is no GGUF file that can be read"),
        (lambda data: b"", "is no GGUF file that can be read"),
    ],
)
def test_damaged_files_are_told_in_one_line(tmp_path, damage, message):
    path = write_model(tmp_path / "m.gguf", "llama", "Q8_0")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BadInputError, match=message) as caught:
        reason_against(path)
    assert "\n" not in str(caught.value)


def test_the_process_speaks_json_and_needs_no_torch(tmp_path):
    path = write_model(tmp_path / "m.gguf", "qwen3", "Q8_0")
    (tmp_path / "out").mkdir()
    code = "import sys; sys.modules.update(torch=None, transformers=None, nncf=None); import runpy; sys.argv[0] = 'x'; "
    code += "runpy.run_module('outpace.models.gguf', run_name='__main__')"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out"), "int4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["stage"] for line in done.stdout.splitlines()] == ["reading the weights", "writing the model", "trying it"]
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"model.xml", "model.bin", "tokenizer.json", "config.json"}
    (tmp_path / "bad.gguf").write_bytes(b"nothing")
    command[3] = str(tmp_path / "bad.gguf")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "no GGUF file" in json.loads(done.stdout)["error"]
    assert done.returncode


# ---- the real default model


@pytest.mark.real
def test_the_default_model_is_what_transformers_reads_in_it(tmp_path):
    """Its logits and, so that the helpers that are shipped fit, its fingerprint."""
    import torch

    from outpace.models.find import locate
    from outpace.models.transformers_io import load_tokenizer
    from outpace.targets.identity import base_of

    path = locate("tiny").path
    assert reason_against(path) == ""
    model = in_transformers(path)
    theirs_tokenizer = Tokenizer.from_transformers(load_tokenizer(path))
    target, facts = converted(path, tmp_path / "f32", "f32")
    ours = Tokenizer.from_folder(tmp_path / "f32")
    # SmolLM cuts digits apart, which transformers forgets: it shows where spaces stand before them
    text = "".join(letter for letter in Path(__file__).read_text("utf-8") if not letter.isdigit())
    tokens = ours.encode(text)
    assert tokens == theirs_tokenizer.encode(text)
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens[:200]])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(target, tokens[:200]), theirs, atol=1e-3 * np.abs(theirs).max())
    assert facts["fingerprint"] == base_of(model, "m").fingerprint
    assert facts["eos_token_ids"] == [2]
    small = logits_of(converted(path, tmp_path / "int8", "int8")[0], tokens[:200])
    assert (small.argmax(1) == theirs.argmax(1)).mean() > 0.85
