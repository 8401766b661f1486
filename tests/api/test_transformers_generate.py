"""`outpace.transformers.generate` against `model.generate` of tiny random models: equal tokens, equal padding, equal limits."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from functools import cache
from itertools import product
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig

from outpace.errors import BadInputError
from outpace.targets.hf.target import HFTarget
from outpace.transformers import generate
from outpace.transformers.arguments import HONOURED, NO_EFFECT, REFUSED
from outpace.transformers.live import Live

V, PAD, EOS = 96, 0, 1
SIZES = {"vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
SHAPE = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3, "eos_token_id": EOS, "pad_token_id": PAD}
GPT2 = {"vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
KINDS = {
    "llama": ("LlamaConfig", SHAPE),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 16}),
    "gpt2": ("GPT2Config", GPT2 | {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": EOS}),
}
DRAFTERS = {
    "default": lambda: {},
    "plain": lambda: {"speculative_config": False},
    "assistant": lambda: {"assistant_model": model_of("llama", seed=1)},
    "same assistant": lambda: {"assistant_model": model_of("llama"), "num_assistant_tokens": 4},
    "early exit": lambda: {"assistant_early_exit": 1},
    "prompt lookup": lambda: {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 2},
    "own spec": lambda: {"speculative_config": "suffix+recycling"},
}


def build(kind: str, seed: int = 0, **settings):
    """A random model; wide initial weights make its logits differ."""
    torch.manual_seed(seed)
    name, shape = KINDS[kind]
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**shape | settings)).float().eval()


@cache
def model_of(kind: str, seed: int = 0):
    return build(kind, seed)


@cache
def tokenizer():
    """One character is one token; 0 is the padding, 1 the end."""
    letters = ["<pad>", "<eos>", "\u0120", *(chr(33 + i) for i in range(V - 3))]
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    options = {"padding_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>", **options)


def inputs_of(lengths: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random prompts of these lengths, padded on the left."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, V, (len(lengths), max(lengths)), generator=draw)
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids.masked_fill(mask == 0, PAD), "attention_mask": mask}


ONE, RAGGED = inputs_of((9,)), inputs_of((12, 7, 1), seed=1)


def same(model, inputs, **kwargs) -> torch.Tensor:
    """Assert that both give the same tensor."""
    theirs, mine = model.generate(**inputs, **kwargs), generate(model, **inputs, **kwargs)
    assert mine.dtype == torch.long
    assert mine.tolist() == theirs.tolist()
    return mine


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


# ---- what is refused


BAD = {
    "num_beams": 2,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "guidance_scale": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2,
    "bad_words_ids": [[5]],
    "sequence_bias": [[[5], 1.0]],
    "forced_eos_token_id": 5,
    "max_time": 3.0,
    "cache_implementation": "static",
    "return_dict_in_generate": True,
    "output_scores": True,
    "logits_processor": [lambda ids, scores: scores],
    "prefix_allowed_tokens_fn": lambda *_: [1],
    "past_key_values": object(),
    "inputs_embeds": torch.zeros(1, 1, 64),
    "position_ids": torch.zeros(1, 9),
    "use_mtp": True,
    "no_such_argument": 1,
    "max_new_tokens": 0,
    "min_new_tokens": -1,
    "max_length": 9,
    "prompt_lookup_num_tokens": 0,
    "assistant_early_exit": 7.0,
    "num_return_sequences": 2,
    "repetition_penalty": 0,
    "seed": -1,
    "attention_mask": torch.ones(1, 3),
    "generation_config": {"max_new_tokens": 3},
}


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(name):
    with pytest.raises(BadInputError, match=name) as caught:
        generate(model_of("llama"), **{**ONE, name: BAD[name]})
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "top_h"])
def test_sampling_options_are_refused_only_with_sampling(name):
    value = {"temperature": 0.0, "top_k": -5, "top_p": 1.5, "min_p": 2.0}.get(name, 0.5)
    with pytest.raises(BadInputError, match=name):
        generate(model_of("llama"), **ONE, do_sample=True, **{name: value})
    generate(model_of("llama"), **ONE, max_new_tokens=1, **{name: value})


def test_every_option_of_transformers_has_a_place():
    """Defaults are those of transformers; an option with a default that nobody has thought of would be refused."""
    model = model_of("llama")
    defaults = GenerationConfig._get_default_generation_params()
    assert {name: value for name, value in HONOURED.items() if value is not None}.items() <= defaults.items()
    expected = generate(model, **ONE).tolist()
    del defaults["max_length"]  # given by hand it counts the prompt
    assert generate(model, **ONE, **defaults).tolist() == expected
    assert generate(model, **ONE, **dict.fromkeys([*HONOURED, *NO_EFFECT, *REFUSED])).tolist() == expected
    names = [*HONOURED, *NO_EFFECT, *REFUSED]
    assert len(names) == len(set(names))


def test_only_padding_on_the_left():
    for mask in ([1] * 8 + [0], [1, 0] + [1] * 7, [0] * 9):
        with pytest.raises(BadInputError, match="attention_mask: only padding on the left"):
            generate(model_of("llama"), ONE["input_ids"], attention_mask=torch.tensor([mask]))
    with pytest.raises(BadInputError, match="attention_mask is missing and pad_token_id is among the input_ids"):
        generate(model_of("llama"), torch.tensor([[5, PAD, 6]]))
    for ids in (None, [[1, 2]], torch.ones(3).long(), torch.ones(1, 2), torch.ones(1, 0).long()):
        with pytest.raises(BadInputError, match="input_ids"):
            generate(model_of("llama"), ids)


def test_one_way_to_draft():
    for first, second in (("speculative_config", "prompt_lookup_num_tokens"), ("assistant_model", "assistant_early_exit")):
        with pytest.raises(BadInputError, match=f"{first} and {second} both choose a drafter"):
            generate(model_of("llama"), **ONE, **{first: 1, second: 1})
    with pytest.raises(BadInputError, match="unknown drafter 'nothing'"):
        generate(model_of("llama"), **ONE, speculative_config="nothing")


def test_models_that_are_refused():
    t5 = {"vocab_size": V, "d_model": 32, "d_ff": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2}
    with pytest.raises(BadInputError, match="is an encoder-decoder model"):
        generate(transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)), **ONE)
    with pytest.raises(BadInputError, match="model must be a live transformers model, not str"):
        generate("gpt2", **ONE)
    with pytest.raises(BadInputError, match="do not fit into 256"):
        generate(model_of("llama"), **ONE, max_new_tokens=300)
    other = build("llama", vocab_size=128)
    with pytest.raises(BadInputError, match="assistant_model has a vocabulary of another size"):
        generate(model_of("llama"), **ONE, assistant_model=other)
    texts = {"tokenizer": tokenizer(), "assistant_tokenizer": tokenizer()}
    expected = generate(model_of("llama"), **RAGGED).tolist()
    assert generate(model_of("llama"), **RAGGED, assistant_model=other, **texts).tolist() == expected


# ---- the model afterwards


def test_the_model_is_given_back_as_it_was():
    model = build("llama", attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    model.set_attn_implementation("flex_attention")
    mine = generate(model, **RAGGED, max_new_tokens=6)
    assert [module.training for module in model.modules()] == before
    assert model.config._attn_implementation == "flex_attention"
    model.set_attn_implementation("sdpa")
    assert mine.tolist() == model_of("llama").generate(**RAGGED, max_new_tokens=6).tolist()  # without dropout
    model(input_ids=ONE["input_ids"], labels=ONE["input_ids"]).loss.backward()
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))


def test_one_target_serves_all_calls(monkeypatch):
    built, init = [], HFTarget.__init__
    monkeypatch.setattr(HFTarget, "__init__", lambda self, model, **options: (built.append(model), init(self, model, **options))[0])
    model = build("llama")
    for settings in product([1, 2], [{}, {"assistant_model": model_of("llama")}]):
        generate(model, **ONE, max_new_tokens=settings[0], **settings[1])
    assert built == [model, model_of("llama")]
    live = Live.of(model)
    assert not any(target.used for target in live.targets)
    assert all(layer.keys is None for target in live.targets for layer in target.cache.layers)
    same(model.to(torch.float64), ONE, max_new_tokens=5)
    assert built == [model, model_of("llama"), model]


def test_models_are_not_kept():
    model, assistant = build("llama"), build("llama", seed=1)
    for settings in ({}, {"assistant_model": assistant}, {"assistant_early_exit": 1}, {"speculative_config": "draft_model:self"}):
        generate(model, **ONE, max_new_tokens=4, **settings)
    gone = weakref.ref(model), weakref.ref(assistant)
    del settings, assistant
    gc.collect()
    assert gone[1]() is None
    del model
    gc.collect()
    assert gone[0]() is None


def test_errors_leave_nothing_behind():
    class Failing(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            raise ArithmeticError("no")

    model = build("llama")
    with pytest.raises(ArithmeticError, match="no"):
        generate(model, **ONE, stopping_criteria=[Failing()], assistant_model=model_of("llama"))
    assert not any(target.used for target in Live.of(model).targets)
    same(model, ONE, max_new_tokens=4)


def test_threads_take_turns():
    model, assistant = model_of("llama"), model_of("llama", seed=1)
    expected, found = [generate(each, **RAGGED, max_new_tokens=10).tolist() for each in (model, assistant)], {}

    def work(number: int) -> None:
        pair = (model, assistant) if number % 2 else (assistant, model)  # in both orders: a deadlock would end in a timeout
        found[number] = generate(pair[0], **RAGGED, max_new_tokens=10, assistant_model=pair[1]).tolist()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: expected[0 if number % 2 else 1] for number in range(6)}


# ---- the page


def test_the_examples_of_the_page_run(monkeypatch):
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model_of("llama"))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer())
    page = Path(__file__).parents[2] / "docs" / "transformers.md"
    source = "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    assert source
    exec(compile(source, page.name, "exec"), {})
