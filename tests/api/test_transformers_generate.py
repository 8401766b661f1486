"""`outpace.transformers.generate` against `model.generate` of tiny random models: equal tokens, equal padding, equal limits."""

from __future__ import annotations

from functools import cache

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from live_models import DRAFTERS, EOS, KINDS, ONE, PAD, RAGGED, SHAPE, SIZES, V, _one_thread, build, inputs_of, model_of, same, tokenizer  # noqa: F401
from transformers import GenerationConfig

from outpace.errors import BadInputError
from outpace.transformers import generate

# ---- greedy


@cache
def greedy(kind: str) -> list[tuple[dict, dict, list]]:
    """(inputs, settings, output) of `model.generate`."""
    model, found = model_of(kind), []
    for inputs in (ONE, RAGGED):
        plain = model.generate(**inputs, max_new_tokens=16, eos_token_id=None)[:, inputs["input_ids"].shape[1] :]
        ends = [int(plain[-1, 3]), int(plain[0, 9])]  # tokens that do occur, early in one sequence
        for settings in ({"eos_token_id": ends}, {"repetition_penalty": 1.3}, {"eos_token_id": ends[0], "min_new_tokens": 12}):
            found.append((inputs, settings, model.generate(**inputs, max_new_tokens=16, **settings).tolist()))
        found.append((inputs, {"eos_token_id": None}, torch.cat([inputs["input_ids"], plain], 1).tolist()))
    return found


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate(kind, drafter):
    assert {len(expected[0]) for _, _, expected in greedy(kind)} >= {25, 28}  # all 16 tokens of either batch …
    assert any(expected[0][-1] == PAD or len(expected[0]) < 25 for _, _, expected in greedy(kind))  # … and an early end
    for inputs, settings, expected in greedy(kind):
        assert generate(model_of(kind), **inputs, max_new_tokens=16, **settings, **DRAFTERS[drafter]()).tolist() == expected


def test_drafts_save_forward_passes():
    model, calls = model_of("llama"), []
    prompt = {"input_ids": torch.tensor([[5, 6, 7, 8] * 4]), "attention_mask": torch.ones(1, 16)}
    generate(model, **prompt, max_new_tokens=40)  # the first call checks the model
    with model.register_forward_hook(lambda *_: calls.append(1)):
        generate(model, **prompt, max_new_tokens=60, speculative_config=False)
        num_plain = len(calls)
        generate(model, **prompt, max_new_tokens=60, speculative_config="suffix+recycling")
    assert num_plain >= 60
    assert len(calls) - num_plain < num_plain


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 15},
        {"max_length": 14, "max_new_tokens": 5},
        {},
        {"min_length": 25, "max_length": 30},
        {"max_new_tokens": 3, "min_new_tokens": 9},
        {"max_new_tokens": 20, "suppress_tokens": [*range(2, 40), V + 5]},
        {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": None},
        {"max_new_tokens": 6, "eos_token_id": -1},
        {"max_new_tokens": 6, "do_sample": False, "temperature": 0.3, "top_p": 0.5, "typical_p": 0.5, "num_beams": 1, "use_cache": False},
        {"generation_config": GenerationConfig(max_new_tokens=7)},
        {"generation_config": GenerationConfig(max_new_tokens=7, repetition_penalty=1.5), "max_new_tokens": 4},
    ],
    ids=str,
)
def test_lengths_and_precedence(settings):
    for end in (2, 33):
        same(model_of("llama"), RAGGED, **{"eos_token_id": end, **settings})


def test_the_generation_config_of_the_model_counts():
    model = build("llama")
    first = int(model.generate(**ONE, max_new_tokens=3)[0, -1])
    model.generation_config.update(max_new_tokens=9, eos_token_id=[EOS, first], repetition_penalty=1.2, pad_token_id=None)
    model.generation_config.brand_new = "unknown to transformers"
    assert same(model, RAGGED).shape[1] <= 21
    same(model, RAGGED, generation_config=GenerationConfig(max_new_tokens=5, pad_token_id=7))
    same(model, RAGGED, eos_token_id=None, max_new_tokens=11)
    model.generation_config.prompt_lookup_num_tokens = 3
    assert generate(model, **RAGGED).tolist() == generate(model, **RAGGED, speculative_config=False).tolist()


def test_the_default_length_ends_with_the_context():
    assert same(model_of("llama"), inputs_of((250,)), eos_token_id=None).shape == (1, 256)


def test_padding_is_inferred_as_transformers_does():
    same(model_of("llama"), {"input_ids": RAGGED["input_ids"]}, max_new_tokens=8)
    same(model_of("llama"), {"input_ids": RAGGED["input_ids"]}, max_new_tokens=8, pad_token_id=EOS)  # then nothing is padding
    same(model_of("llama"), {"inputs": ONE["input_ids"]}, max_new_tokens=8)
    assert same(model_of("llama"), {"input_ids": ONE["input_ids"].int()}, max_new_tokens=2).dtype == torch.long


# ---- sampled


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "max_new_tokens": 20}


def test_a_seed_gives_the_same_tokens_with_every_drafter():
    model = model_of("llama")
    expected = generate(model, **RAGGED, **SAMPLED, seed=5, speculative_config=False)
    assert expected.tolist() != generate(model, **RAGGED, **SAMPLED, seed=6).tolist()
    for make in DRAFTERS.values():
        assert generate(model, **RAGGED, **SAMPLED, seed=5, **make()).tolist() == expected.tolist()
    alone = generate(model, input_ids=RAGGED["input_ids"][1:2, 5:], **SAMPLED, seed=6)  # sequence 1 of the batch
    assert alone[0, 7:].tolist() == expected[1, 12 : 12 + alone.shape[1] - 7].tolist()


def test_without_a_seed_torch_decides():
    model, found = model_of("llama"), []
    for seed in (3, 3, 4):
        transformers.set_seed(seed)
        found.append(generate(model, **ONE, **SAMPLED).tolist())
    assert found[0] == found[1] != found[2]


def test_sampled_tokens_are_those_the_options_allow():
    model = model_of("llama")
    likeliest = model(**ONE).logits[0, -1].topk(3).indices.tolist()
    found = generate(model, **ONE, do_sample=True, top_k=3, temperature=5.0, max_new_tokens=1, num_return_sequences=40, seed=0)
    assert found.shape == (40, 10)
    assert found[:, :9].tolist() == ONE["input_ids"].tolist() * 40
    assert set(found[:, 9].tolist()) == set(likeliest)
    several = generate(model, **RAGGED, do_sample=True, max_new_tokens=2, num_return_sequences=2, seed=0)
    assert several[:, :12].tolist() == [row for row in RAGGED["input_ids"].tolist() for _ in range(2)]


# ---- streams and stops


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.given = []

    def put(self, value):
        self.given.append(value.tolist())

    def end(self):
        self.given.append("end")


def test_streamers_are_given_the_same():
    streams = Recorder(), Recorder()
    model_of("llama").generate(**ONE, max_new_tokens=12, streamer=streams[0])
    generate(model_of("llama"), **ONE, max_new_tokens=12, streamer=streams[1], speculative_config="suffix+recycling")
    assert streams[0].given == streams[1].given
    with pytest.raises(BadInputError, match="streamer takes one sequence, not 3"):
        generate(model_of("llama"), **RAGGED, streamer=Recorder())


def test_a_streamer_may_call_generate():
    class Nested(Recorder):
        def put(self, value):
            self.given.append(generate(model, **ONE, max_new_tokens=2).tolist())

    model, streamer = model_of("llama"), Nested()
    expected = generate(model, **ONE, max_new_tokens=6).tolist()
    assert generate(model, **ONE, max_new_tokens=6, streamer=streamer).tolist() == expected
    assert len(streamer.given) == 8


@pytest.mark.parametrize("inputs", [ONE, RAGGED], ids=["one", "three"])
def test_stop_strings(inputs):
    model, length = model_of("llama"), inputs["input_ids"].shape[1]
    plain = model.generate(**inputs, max_new_tokens=20)
    text = tokenizer().decode(plain[0, length + 5 : length + 7])
    across = tokenizer().decode(plain[0, length - 1 : length + 1])  # its first token is the end of the prompt
    for stops in ([text], [across], [text, "nowhere"], ["<eos>"]):
        same(model, inputs, tokenizer=tokenizer(), stop_strings=stops, max_new_tokens=12)
    same(model, inputs, tokenizer=tokenizer(), stop_strings=text, max_new_tokens=12, min_new_tokens=10)  # which delays end tokens only
    assert same(model, ONE, tokenizer=tokenizer(), stop_strings=[text], max_new_tokens=20).shape[1] <= 29
    with pytest.raises(BadInputError, match="stop_strings needs the tokenizer"):
        generate(model, **inputs, stop_strings="x")
    with pytest.raises(BadInputError, match="stop_strings with several sequences needs an eos_token_id"):
        generate(model, **RAGGED, stop_strings="x", tokenizer=tokenizer(), eos_token_id=None)


def test_stopping_criteria_of_one_sequence():
    seen = []

    class AtLength(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(input_ids.tolist())
            return torch.tensor([input_ids.shape[1] >= 14])

    same(model_of("llama"), ONE, stopping_criteria=[AtLength()], max_new_tokens=20)
    assert seen[:5] == seen[5:]
    with pytest.raises(BadInputError, match="stopping_criteria takes one sequence, not 3"):
        generate(model_of("llama"), **RAGGED, stopping_criteria=[AtLength()])
    same(model_of("llama"), RAGGED, stopping_criteria=[], max_new_tokens=3)
