"""Training a feature-level head: what a round sees is what a draft sees, and the numbers are transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cli_tools import call
from training_tools import die_in_training, run_killed

from outpace.heads.format import DraftHeads
from outpace.llm import LLM
from outpace.params import SamplingParams
from outpace.training.base_model import LayerSizes
from outpace.training.data.shards import Rows
from outpace.training.data.texts import held_out
from outpace.training.eagle.module import EagleLayer
from outpace.training.eagle.run import train_eagle
from outpace.training.eagle.task import EagleSettings
from outpace.training.loop import LoopSettings
from outpace.training.record import read_metrics
from outpace.training.stages import Source

SIZES = LayerSizes(24, 4, 2, 6, 40, 10_000.0, 1e-6)
SHAPE = EagleSettings(rounds=3, num_draft_vocab=64)
LOOP = LoopSettings(epochs=12, batch_size=8, learning_rate=3e-3, checkpoint_seconds=0.1, record_steps=1)


class Literal:
    """The same layer out of transformers' parts, run over one sequence at a time."""

    def __init__(self, layer: EagleLayer):
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

        config = LlamaConfig(
            hidden_size=24,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
            intermediate_size=40,
            num_hidden_layers=1,
            attn_implementation="eager",
        )
        self.fc, self.layer, self.rotary = layer.fc, LlamaDecoderLayer(config, 0), LlamaRotaryEmbedding(config)
        weights = {name.removeprefix("layers.0."): value for name, value in layer.state_dict().items() if name.startswith("layers.")}
        missing, surplus = self.layer.load_state_dict(weights, strict=False)
        assert (missing, surplus) == (["input_layernorm.weight"], [])
        self.layer.input_layernorm = torch.nn.Identity()

    def last(self, embeddings: list[torch.Tensor], features: list[torch.Tensor]) -> torch.Tensor:
        """The output [H] of the last of these rows."""
        x = self.fc(torch.cat([torch.stack(embeddings), torch.stack(features)], dim=-1))[None]
        places = torch.arange(x.shape[1])[None]
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)[None, None]
        output = self.layer(x, attention_mask=mask, position_embeddings=self.rotary(x, places))
        return (output[0] if isinstance(output, tuple) else output)[0, -1]


@torch.no_grad()
def test_a_round_sees_what_a_draft_sees():
    """Texts of 9 and 6 rows; a draft from every row, its own outputs fed back, one long sequence each."""
    torch.manual_seed(0)
    layer = EagleLayer(SIZES)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    literal = Literal(layer)
    features, embeddings = torch.randn(2, 9, 24), torch.randn(2, 9, 24)
    is_row = torch.ones(2, 9, dtype=torch.bool)
    is_row[1, :3] = False
    width = 5
    rounds = list(layer.rounds(features, embeddings, is_row, width, 4))
    num_seen = 0
    for text, begin in ((0, 0), (1, 3)):
        for column in range(9 - width, 9):
            seen = [embeddings[text, i] for i in range(begin, column + 1)], [features[text, i] for i in range(begin, column + 1)]
            for number, outputs in enumerate(rounds):
                expected = literal.last(*seen)
                torch.testing.assert_close(outputs[text, column - (9 - width)], expected, rtol=1e-4, atol=1e-4)
                num_seen += 1
                if column + number + 1 >= 9:
                    break
                seen[0].append(embeddings[text, column + number + 1])
                seen[1].append(expected)
    assert num_seen == 2 * (4 + 4 + 3 + 2 + 1)


@torch.no_grad()
def test_it_begins_as_the_feature_itself_and_a_little_of_the_token():
    torch.manual_seed(0)
    layer = EagleLayer(SIZES)
    layer.start(2.0, 0.1)
    features, embeddings = 2 * torch.randn(1, 50, 24), 0.1 * torch.randn(1, 50, 24)
    (first,) = layer.rounds(features, embeddings, torch.ones(1, 50, dtype=torch.bool), 50, 1)
    rest = (first - features).square().mean().sqrt()
    assert 0.3 < rest < 1.0


# ---- a whole run


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text("".join(f'{{"id": "p{i}", "prompt": "<{i}> <{(7 * i) % 90 + 2}>"}}\n' for i in range(2, 96)))
    return path


def source_of(model: Path, prompts: Path) -> Source:
    return Source(str(model), prompts, generate=True, max_tokens=28, target="hf", precision="f32")


@pytest.fixture(scope="module")
def whole(model, prompts, tmp_path_factory) -> tuple[Path, DraftHeads]:
    """(folder, helper) of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, train_eagle(source_of(model, prompts), out, SHAPE, LOOP)


def test_the_head_learns_and_the_file_has_it(whole):
    out, helper = whole
    losses = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    loaded = DraftHeads.from_pretrained(out)
    assert (loaded.kind, loaded.base, loaded.settings) == ("eagle", helper.base, helper.settings)
    assert loaded.tensors["fc.weight"].shape == (helper.base.hidden_size, 2 * helper.base.hidden_size)
    assert loaded.tensors["vocab_ids"].shape == (64,)
    held_out = loaded.training["held_out"]
    assert len(held_out["accuracies"]) == len(loaded.settings["temperatures"]) == SHAPE.rounds
    assert held_out["accuracies"][0][0] > 0.2


def test_decoding_accepts_what_training_said(model, whole):
    """The gap between training and serving, a known trap."""
    out, helper = whole
    texts = {row["id"]: row for row in map(json.loads, (out / "answers.jsonl").read_text().splitlines())}
    llm = LLM(str(model), f"eagle:{out}", target="hf", precision="f32")
    num_tokens = num_steps = 0
    for name in held_out(Rows(out / "shards").ids):
        expected = texts[name]["token_ids"]
        job = llm.submit(texts[name]["prompt_ids"], SamplingParams(max_tokens=len(expected)))
        while not job.is_done:
            num_steps += len(llm.step())
        assert job.request.output_token_ids == expected
        num_tokens += len(expected)
    assert num_tokens / num_steps == pytest.approx(helper.training["held_out"]["acceptance"], rel=0.01)
    assert num_tokens / num_steps > 1.2


@pytest.mark.timeout(300)
def test_killed_in_training_the_result_is_the_same(model, prompts, whole, tmp_path):
    source, out = source_of(model, prompts), tmp_path / "killed"
    run_killed(die_in_training, train_eagle, source, out, SHAPE, LOOP)
    assert not (out / "config.json").exists()
    helper = train_eagle(source, out, SHAPE, LOOP, resume=True)
    for name, tensor in whole[1].tensors.items():
        np.testing.assert_array_equal(helper.tensors[name], tensor, err_msg=name)
    assert (helper.settings, helper.training["held_out"]) == (whole[1].settings, whole[1].training["held_out"])


def test_the_command_prints_what_it_is_worth(model, whole, tmp_path):
    words = ["--model", model, "--target", "hf", "--precision", "f32", "--data", whole[0] / "shards", "--out", tmp_path / "out"]
    result = call("train", "eagle", *words, "--epochs", 1, "--rounds", 2, "--num-draft-vocab", 0)
    assert result.exit_code == 0, result.output
    assert "tokens ahead" in result.stdout
    assert "--drafter eagle:" in result.stdout
    assert "Expected on this machine: " in result.stdout.splitlines()[-1]
    assert DraftHeads.from_pretrained(tmp_path / "out").settings["num_draft_vocab"] is None


def test_rows_of_another_model_are_refused(whole, tiny_models, tmp_path):
    other = tiny_models["qwen3"]
    words = ["--model", other, "--target", "hf", "--data", whole[0] / "shards", "--out", tmp_path / "out"]
    result = call("train", "eagle", *words)
    assert result.exit_code == 2
    assert "with fingerprint" in result.stderr.splitlines()[-1]
