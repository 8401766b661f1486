"""`outpace train draft` as a whole, on tiny random models: what is learned is what is saved, and decoding accepts what training said."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cli_tools import train
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from safetensors.torch import load_file
from training_tools import die_in_training, run_killed
from transformers import AutoModelForCausalLM

from outpace.export import exporter
from outpace.heads.draft_record import RECORD, DraftRecord
from outpace.llm import LLM
from outpace.models.find import fingerprint
from outpace.params import SamplingParams
from outpace.training.data.shards import Rows
from outpace.training.data.texts import held_out
from outpace.training.draft import run as run_draft
from outpace.training.draft.chains import Chains
from outpace.training.draft.divergence import divergence
from outpace.training.draft.student import Student
from outpace.training.draft.task import DraftSettings, batches
from outpace.training.loop import LoopSettings
from outpace.training.loss import FrozenHead
from outpace.training.record import read_metrics
from outpace.training.stages import Source

SHAPE = DraftSettings(num_layers=1, batch_rows=128, num_sampled_vocab=64)
LOOP = LoopSettings(epochs=8, batch_size=1, learning_rate=3e-3, checkpoint_seconds=0.1, record_steps=1)
NUM_ANSWER_TOKENS = 28


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    """Prompts of one to three tokens: the tokenizer of the tiny model knows words such as <7>."""
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    words = ["".join(f"<{i}>" for i in range(first, first + 1 + first % 3)) for first in range(2, 90)]
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": prompt}) + "\n" for i, prompt in enumerate(words)))
    return path


def source_of(model: Path, prompts: Path) -> Source:
    return Source(str(model), prompts, generate=True, max_tokens=NUM_ANSWER_TOKENS, target="hf", precision="f32")


@pytest.fixture(scope="module")
def whole(model, prompts, tmp_path_factory) -> tuple[Path, DraftRecord]:
    """(folder, record) of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, run_draft.train_draft(source_of(model, prompts), out, SHAPE, LOOP)


# ---- the parts


@settings(deadline=None)  # the first call warms torch up
@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_divergence_is_the_plain_one(num_rows, seed, has_bias):
    torch.manual_seed(seed)
    weight = torch.randn(11, 4)
    bias = torch.randn(11) if has_bias else None
    states, teacher = torch.randn(2, num_rows, 4)
    mine = states.clone().requires_grad_()
    loss, likeliest = divergence(mine, teacher, FrozenHead(weight, bias))
    (3 * loss).backward()
    theirs = states.clone().requires_grad_()
    scores, wanted = (torch.nn.functional.linear(x, weight, bias).log_softmax(1) for x in (theirs, teacher))
    expected = torch.nn.functional.kl_div(scores, wanted, log_target=True, reduction="batchmean")
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    assert torch.equal(likeliest, scores.argmax(1))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200), st.integers(0, 9))
def test_batches_hold_every_text_once_and_no_more_rows_than_allowed(lengths, max_rows, seed):
    found = batches(np.array(lengths), max_rows, seed)
    assert sorted(itertools.chain(*(batch.tolist() for batch in found))) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[text] for text in batch) <= max_rows
    again = batches(np.array(lengths), max_rows, seed)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_chains_on_paper():
    hits, confidences = np.array([1, 1, 0, 1, 1, 1], bool), np.array([0.5, 0.9, 0.9, 0.9, 0.9, 0.9])
    chains = Chains(np.array([0, 4, 6]), hits, confidences)
    assert chains.acceptance(7).num_steps == 3  # rows 0-2, 3; 4-5
    assert chains.acceptance(1).num_steps == 4  # rows 0-1, 2, 3; 4-5
    assert chains.acceptance(7, 0.6).num_steps == 4  # the first chain stops behind row 0
    assert chains.acceptance(1).num_tokens == 6


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_folder_is_an_ordinary_model(tiny_models, family, is_tied, tmp_path):
    """Any tool loads it, and it says what the student said."""
    shutil.copytree(tiny_models[family], tmp_path / "teacher")
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
    teacher.config.tie_word_embeddings = is_tied
    teacher.tie_weights()
    teacher.save_pretrained(tmp_path / "teacher")
    small = Student.of(str(tmp_path / "teacher"), 1)
    for parameter in small.live.parameters():
        parameter.data += 0.1 * parameter.requires_grad * torch.randn(parameter.shape)
    small.round()
    small.save(tmp_path / "out", DraftRecord(small.head.base, {"num_layers": 1}))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert (loaded.config.num_hidden_layers, loaded.config.tie_word_embeddings) == (1, is_tied)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    tokens = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded(tokens).logits, small.live(tokens).logits)
    for mine, theirs in zip(heads_of(loaded), heads_of(teacher), strict=True):
        assert torch.equal(mine, theirs.bfloat16().float())
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def heads_of(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


# ---- a run


@pytest.mark.timeout(300)
def test_killed_the_result_is_the_same(model, prompts, whole, tmp_path):
    source, out = source_of(model, prompts), tmp_path / "killed"
    run_killed(die_in_training, run_draft.train_draft, source, out, SHAPE, LOOP)
    assert not (out / "config.json").exists()
    record = run_draft.train_draft(source, out, SHAPE, LOOP, resume=True)
    mine, expected = (load_file(folder / "model.safetensors") for folder in (out, whole[0]))
    assert mine.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(mine[name], tensor), name
    for name in ("agreement", "acceptance"):
        assert record.training["held_out"][name] == whole[1].training["held_out"][name]
    losses = [[row["loss"] for row in read_metrics(folder) if "loss" in row] for folder in (out, whole[0])]
    assert losses[0] == losses[1]


def test_the_student_learns(whole):
    losses = [row["loss"] for row in read_metrics(whole[0]) if "loss" in row]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    record = json.loads((whole[0] / RECORD).read_text())
    assert (record["kind"], record["settings"], record["base"]["hidden_size"]) == ("draft_model", {"num_layers": 1}, 64)
    assert record["training"]["held_out"] == whole[1].training["held_out"]


def test_decoding_accepts_what_training_said(model, whole):
    """The gap between training and serving, a known trap. Answers may go on here: near the end of one the engine drafts less."""
    out, record = whole
    texts = {row["id"]: row for row in map(json.loads, (out / "answers.jsonl").read_text().splitlines())}
    said = record.training["held_out"]["acceptance"]
    for depth in (1, run_draft.MAX_DEPTH):
        llm = LLM(str(model), f"draft_model:{out}:max_depth={depth}:min_confidence=0", target="hf", precision="f32")
        num_tokens = num_steps = 0
        for name in held_out(Rows(out / "shards").ids):
            expected = texts[name]["token_ids"]
            job = llm.submit(texts[name]["prompt_ids"], SamplingParams(max_tokens=100, ignore_eos=True))
            while job.request.num_output_tokens < len(expected):
                num_steps += len(llm.step())
            assert job.request.output_token_ids[: len(expected)] == expected
            num_tokens += len(expected)
            llm.abort(job)
        assert num_tokens / num_steps == pytest.approx(said[depth - 1], rel=0.01)
        assert num_tokens / num_steps > 1.1


def test_it_drafts_on_openvino(model, whole):
    prompt, params = [5, 6, 7], SamplingParams(max_tokens=24)
    llm = LLM(str(model), "none", target="openvino", precision="f32")
    plain = llm.generate(prompt, params)[0]
    drafted = llm.generate(prompt, params, speculative_config=f"draft_model:{whole[0]}:min_confidence=0")[0]
    assert drafted.token_ids == plain.token_ids
    assert drafted.stats.num_steps < plain.stats.num_steps


def test_it_is_exported_without_naming_its_model(model, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)  # a local model is named by its folder alone
    command = exporter("vllm")(whole[0], tmp_path / "out", None)
    assert json.loads(shlex.split(command)[-1])["method"] == "draft_model"
    assert not (tmp_path / "out" / "run.json").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 1


def test_the_record_is_no_part_of_the_model(whole):
    before = fingerprint(whole[0])
    whole[1].save(whole[0])
    os.utime(whole[0] / RECORD)
    assert fingerprint(whole[0]) == before


# ---- the command


outpace = partial(train, "draft")


def test_the_command_tells_what_to_expect(model, whole, tmp_path):
    result = outpace("--model", model, "--data", whole[0] / "shards", "--out", tmp_path / "out", "--num-layers", 1, "--epochs", 1)
    assert result.exit_code == 0, result.output
    words = " ".join(result.stdout.split())
    assert "Top token equals the teacher" in words
    assert "draft tokens per step" in words
    assert f"draft_model:{tmp_path / 'out'}" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num-layers", 9), "the model has 2 layers; it has no first 9"),
        (("--num-layers", 1, "--generate"), "--generate needs a file of prompts"),
    ],
)
def test_wrong_inputs_are_one_clear_line(model, whole, tmp_path, options, message):
    result = outpace("--model", model, "--data", whole[0] / "shards", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "run.json").exists()


def test_rows_of_another_model_are_refused(whole, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(other).config).save_pretrained(other)
    result = outpace("--model", other, "--data", whole[0] / "shards", "--out", tmp_path / "out", "--num-layers", 1)
    assert (result.exit_code, "with fingerprint" in result.stderr.splitlines()[-1]) == (2, True)
