"""`outpace.transformers.generate`: what is refused, and the model afterwards."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from itertools import product
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from live_models import DRAFTERS, EOS, KINDS, ONE, PAD, RAGGED, SHAPE, SIZES, V, _one_thread, build, inputs_of, model_of, same, tokenizer  # noqa: F401
from transformers import GenerationConfig

from outpace.errors import BadInputError
from outpace.targets.hf.target import HFTarget
from outpace.transformers import generate
from outpace.transformers.arguments import HONOURED, NO_EFFECT, REFUSED
from outpace.transformers.live import Live

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
    assert not any(target.kv_cache.slots for target in live.targets)
    assert all(layer.keys is None for target in live.targets for layer in target.kv_cache.layers)
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
    assert not any(target.kv_cache.slots for target in Live.of(model).targets)
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
