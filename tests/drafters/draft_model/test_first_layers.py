"""The first layers of a model as its draft model, live and converted."""

from __future__ import annotations

import pytest
from tiny_models import prompt
from tokenizers import Tokenizer as FastTokenizer

from outpace import LLM, SamplingParams
from outpace.errors import BadInputError
from outpace.models.tokenizer import Tokenizer


def live_model(num_layers: int = 3):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": num_layers, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "eos_token_id": 1}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()


def words() -> Tokenizer:
    from tokenizers.models import WordLevel

    return Tokenizer(FastTokenizer(WordLevel({f"<{i}>": i for i in range(96)}, "<0>")))


def test_first_layers_share_the_weights_and_leave_the_model_alone():
    import torch

    from outpace.models.transformers_io import first_layers

    model, ids = live_model(), torch.tensor([prompt(9)])
    with torch.inference_mode():
        before = model(ids).logits
        part = first_layers(model, 2)
        got = part(ids).logits
        assert torch.equal(model(ids).logits, before)
        model.model.layers = model.model.layers[:2]
        assert torch.equal(model(ids).logits, got)
    assert part.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 3
    assert {p.data_ptr() for p in part.parameters()} == {p.data_ptr() for p in model.parameters()}


def test_first_layers_that_cannot_be_had_are_told():
    from outpace.models.transformers_io import first_layers

    model = live_model()
    for number in (0, 4):
        with pytest.raises(BadInputError, match="the model has 3 layers"):
            first_layers(model, number)
    model.forward = model.forward
    with pytest.raises(BadInputError, match="on one device"):
        first_layers(model, 1)


SPECS = [
    "draft_model:self:1",
    "draft_model:self:1:branches=3:min_confidence=0",
    "draft_model:self:min_confidence=0",
    "suffix+draft_model:self:2",
]


def same_texts(llm: LLM, spec: str, temperature: float) -> list[float]:
    """Compares with plain decoding, alone and in a ragged batch; the mean acceptance lengths."""
    params = SamplingParams(max_tokens=32, temperature=temperature, seed=5, ignore_eos=True)
    prompts = [prompt(length, seed=length) * 2 for length in (5, 17, 40)]
    plain = [output.token_ids for output in llm.generate(prompts, params, speculative_config="none")]
    for batch in (prompts[:1], prompts):
        outputs = llm.generate(batch, params, speculative_config=spec)
        assert [output.token_ids for output in outputs] == plain[: len(batch)]
        assert all(output.stats.num_draft_tokens > 0 for output in outputs)
    assert llm.strategy(spec).drafter.__dict__.get("slots", {}) == {}
    return [output.tokens_per_step for output in outputs]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("spec", SPECS)
def test_live_models_lend_their_first_layers(spec, temperature):
    llm = LLM(live_model(), "none", tokenizer=words())
    lengths = same_texts(llm, spec, temperature)
    if ":self:min_confidence" in spec and temperature == 0:
        assert lengths == [pytest.approx(8.0)] * 3
    else:
        part = next(iter(llm.strategies.draft_models.values())).target.model
        own = {p.data_ptr() for p in llm.target.model.parameters()}
        assert {p.data_ptr() for p in part.parameters()} <= own


@pytest.fixture(scope="module")
def loaded(tiny_models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_HOME", str(tiny_models.home))
        return LLM(str(tiny_models["llama"]), "none", target="openvino", precision="f32")


@pytest.fixture
def converted_llm(loaded, tiny_models, monkeypatch):
    """An LLM over a tiny converted model; its first layers are converted into the same cache."""
    monkeypatch.setenv("OUTPACE_HOME", str(tiny_models.home))
    return loaded


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("spec", [*SPECS[:3], "suffix+draft_model:self:1"])  # each number of layers is one more conversion
def test_converted_models_lend_their_first_layers(converted_llm, spec, temperature):
    lengths = same_texts(converted_llm, spec, temperature)
    if ":self:min_confidence" in spec and temperature == 0:
        assert min(lengths) >= 4.0


def test_more_layers_than_there_are_is_one_clear_line(converted_llm):
    with pytest.raises(BadInputError, match="the model has 2 layers; it has no first 9"):
        converted_llm.strategy("draft_model:self:9")


@pytest.mark.real
def test_the_default_model_with_its_first_ten_layers(llm):
    for text in ("Count from one to twelve in words.", "Why is the sky blue?"):
        for temperature in (0.0, 0.8):
            params = SamplingParams(max_tokens=24, temperature=temperature, seed=1)
            messages = [{"role": "user", "content": text}]
            plain, guessed = (llm.chat(messages, params, speculative_config=spec)[0] for spec in ("none", "draft_model:self:10"))
            assert guessed.token_ids == plain.token_ids
            assert guessed.stats.num_draft_tokens > 0
