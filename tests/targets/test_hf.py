"""HFTarget against plain forward passes of tiny random models, alone and through the engine."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from helper_tools import random_eagle, random_medusa

from outpace.config import EngineConfig
from outpace.controller.base import FixedController
from outpace.controller.strategy import Strategy
from outpace.drafters.base import Drafter, DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.engine.engine import Engine
from outpace.errors import BadInputError
from outpace.params import SamplingParams
from outpace.request import Request
from outpace.sampling.processors import build_processors
from outpace.sampling.sampler import RequestSampler
from outpace.targets.base import OutOfSlots
from outpace.targets.identity import base_of
from outpace.tree.draft import Draft
from outpace.tree.segment import Segment
from outpace.verifiers import create_verifier

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
hf = pytest.importorskip("outpace.targets.hf")

V = 128
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SIZES = {"vocab_size": V, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 1024}
SHAPE = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.4}  # large, so that logits differ
MLA = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "first_k_dense_replace": 2}
KINDS = {  # name -> (config class, its settings)
    "llama": ("LlamaConfig", SHAPE),
    "qwen3": ("Qwen3Config", SHAPE | {"head_dim": 24}),
    "gpt2": ("GPT2Config", {"vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.4}),
    "mqa": ("LlamaConfig", SHAPE | {"num_key_value_heads": 1, "attn_implementation": "eager"}),
    "mla": ("DeepseekV3Config", SHAPE | MLA | {"num_key_value_heads": 4}),  # keys and values differ in width
}
ENGINE_KINDS = ("llama", "qwen3", "gpt2")


def build(config_name: str, device: str = "cpu", **settings):
    """A random model of this config class, the same one on every call."""
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**settings)
    return transformers.AutoModelForCausalLM.from_config(config).float().eval().to(device)


@cache
def model_of(kind: str, device: str = "cpu"):
    name, settings = KINDS[kind]
    return build(name, device, **settings)


def plain(model, token_ids):
    """Logits [n, V] of a forward pass without cache, mask or positions."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(token_ids)], device=model.device), use_cache=False).logits[0].float().cpu().numpy()


def plain_tree(model, prefix, token_ids, parents):
    """Logits [n, V] of each node: the last row of a plain pass over prefix and path."""
    rows, paths = [], []
    for token, parent in zip(token_ids, parents, strict=True):
        paths.append([*(paths[parent] if parent >= 0 else ()), token])
        rows.append(plain(model, [*prefix, *paths[-1]])[-1])
    return np.array(rows)


def close(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-5)


def random_tokens(seed: int, n: int, below: int = V):
    return np.random.default_rng(seed).integers(0, below, n).tolist()


def observe_prompt(target, token_ids):
    """A slot that holds these tokens."""
    slot = target.allocate(len(token_ids) + 64)
    target.forward([Segment(slot, token_ids, wants_output=False)])
    target.accept(slot, token_ids, range(len(token_ids)))
    return slot


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(params=KINDS)
def model(request, device):
    return model_of(request.param, device)


# ---- rows against plain forward passes


def test_chain_and_tree(model):
    target, text = hf.HFTarget(model), random_tokens(1, 26)
    slot = observe_prompt(target, text[:20])
    close(target.forward([Segment(slot, text[20:])]).logits, plain(model, text)[20:])
    tree = [text[20], 5, 6, text[21], 7, text[22]], [-1, 0, 1, 0, 0, 3]
    output = target.forward([Segment(slot, *tree)])
    assert output.logits.dtype == np.float32
    bare = hf.HFTarget(model, hidden=False)
    assert bare.forward([Segment(bare.allocate(8), text[:8])]).hidden is None
    close(output.logits, plain_tree(model, text[:20], *tree))


def test_rollback_keeps_a_path_that_is_no_prefix(model):
    target, text = hf.HFTarget(model), random_tokens(2, 24)
    slot = observe_prompt(target, text[:16])
    target.forward([Segment(slot, [text[16], 5, 6, text[17], 7, text[18]], [-1, 0, 1, 0, 3, 3])])
    target.accept(slot, text[16:19], [0, 3, 5])
    assert slot.token_ids == text[:19]
    close(target.forward([Segment(slot, text[19:])]).logits, plain(model, text)[19:])
    target.accept(slot, [text[19]], [0])  # everything after the first row is rolled back
    close(target.forward([Segment(slot, [9, 10, 11])]).logits, plain(model, [*text[:20], 9, 10, 11])[20:])


def test_prefill_and_decode_share_a_pass(model):
    target, a, b, c = hf.HFTarget(model), random_tokens(3, 40), random_tokens(4, 12), random_tokens(5, 30)
    first, second, third = observe_prompt(target, a[:36]), target.allocate(64), observe_prompt(target, c[:3])
    tree = [b[9], 1, 2, 3], [-1, 0, 0, 2]
    segments = [Segment(third, c[3:25], wants_output=False), Segment(first, a[36:]), Segment(second, b[:9], wants_output=False)]
    close(target.forward(segments).logits, plain(model, a)[36:])
    for segment in (segments[2], segments[0]):
        target.accept(segment.slot, segment.token_ids, range(len(segment)))
    logits = target.forward([Segment(third, c[25:]), Segment(first, a[36:38]), Segment(second, *tree)]).logits
    close(logits[:5], plain(model, c)[25:])
    close(logits[5:7], plain(model, a)[36:38])
    close(logits[7:], plain_tree(model, b[:9], *tree))


def test_random_sessions(model):
    """Three sequences of random trees, each keeping a random path, in passes of changing company."""
    target, rng = hf.HFTarget(model), np.random.default_rng(6)
    slots = [observe_prompt(target, random_tokens(seed, 3 + 5 * seed)) for seed in range(3)]
    for _ in range(5):
        batch = []
        for i in rng.permutation(3)[: rng.integers(1, 4)]:
            n = int(rng.integers(1, 9))
            batch.append(Segment(slots[i], rng.integers(0, V, n).tolist(), [-1, *(int(rng.integers(0, node)) for node in range(1, n))]))
        logits = target.forward(batch).logits
        close(logits, np.concatenate([plain_tree(model, s.slot.token_ids, s.token_ids, s.parents) for s in batch]))
        for segment in batch:
            node, path = int(rng.integers(len(segment))), []
            while node >= 0:
                path.insert(0, node)
                node = segment.parents[node]
            target.accept(segment.slot, [segment.token_ids[n] for n in path], path)


def test_probes_past_the_end_harm_nobody(device):
    model = model_of("gpt2", device)
    text = random_tokens(7, 512)
    target = hf.HFTarget(model)
    slot = observe_prompt(target, text[:510])
    close(target.forward([Segment(slot, [*text[510:], 1, 2, 3])]).logits[:2], plain(model, text)[510:])


# ---- slots and buffers


def test_buffers_grow_and_keep_their_content(device):
    model = model_of("llama", device)
    target, short, long = hf.HFTarget(model), random_tokens(8, 20), random_tokens(9, 300)
    layer = target.cache.layers[0]
    slot = observe_prompt(target, short[:16])
    assert layer.keys.shape == (1, 2, 256, 16)
    other = observe_prompt(target, long[:290])
    assert layer.keys.shape == layer.values.shape == (2, 2, 512, 16)
    close(target.forward([Segment(slot, short[16:])]).logits, plain(model, short)[16:])
    close(target.forward([Segment(other, long[290:])]).logits, plain(model, long)[290:])


def test_slots_run_out_and_are_reused(device):
    model = model_of("qwen3", device)
    target, text = hf.HFTarget(model, max_slots=3), random_tokens(10, 20)
    slots = [observe_prompt(target, random_tokens(seed, 30)) for seed in range(3)]
    with pytest.raises(OutOfSlots):
        target.allocate(8)
    target.free(slots[1])
    hole = [Segment(slots[2], text[:2]), Segment(slots[0], text[:2])]  # slots that are no neighbours
    expected = [plain(model, [*segment.slot.token_ids, *text[:2]])[-2:] for segment in hole]
    close(target.forward(hole).logits, np.concatenate(expected))
    again = observe_prompt(target, text[:12])
    assert (again.index, again.num_cached) == (1, 12)
    close(target.forward([Segment(again, text[12:])]).logits, plain(model, text)[12:])


def test_long_prefill_does_not_pad_decoding_and_has_no_logits(device):
    model = model_of("llama", device)
    target = hf.HFTarget(model)
    first, second, third = observe_prompt(target, [1, 2, 3]), observe_prompt(target, [4, 5]), target.allocate(300)
    batch = [Segment(first, [6, 7]), Segment(third, random_tokens(11, 200), wants_output=False), Segment(second, [8])]
    widths, rows, masks = [], [], []
    with (
        model.register_forward_pre_hook(lambda _, inputs, named: masks.append(named["attention_mask"]), with_kwargs=True),
        model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: widths.append(tuple(inputs[0].shape))),
        model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(tuple(inputs[0].shape[:2]))),
    ):
        logits = target.forward(batch).logits
    assert (widths, rows) == ([(1, 200), (2, 2)], [(1, 1), (2, 2)])
    assert all((mask == 0).any(-1).all() for mask in masks)  # padding sees something: in float16 it would be NaN
    close(logits, [*plain(model, [1, 2, 3, 6, 7])[3:], *plain(model, [4, 5, 8])[2:]])
    assert target.forward([Segment(third, [1], wants_output=False)]).logits.shape == (0, V)


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_is_what_the_head_reads(kind, device):
    model = model_of(kind, device)
    target = hf.HFTarget(model, hidden=True)
    assert target.capabilities.hidden
    slots, seen = [observe_prompt(target, random_tokens(seed, 9)) for seed in range(2)], []
    with model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].cpu().numpy())):
        output = target.forward([Segment(slots[0], [1, 2, 3]), Segment(slots[1], [4])])
    assert output.hidden.shape == (4, 64)
    np.testing.assert_array_equal(output.hidden, np.concatenate([seen[0][0, :3], seen[0][1, :1]]))


def test_the_model_says_what_it_is_and_lends_its_head(model):
    target = hf.HFTarget(model)
    assert target.base == base_of(model, target.base.name)
    output = target.forward([Segment(target.allocate(8), [1, 2, 3])])
    lm_head = target.lm_head()
    assert (lm_head.backend, lm_head.vocab_size) == ("torch", V)
    with torch.inference_mode():
        logits = lm_head.module(torch.from_numpy(output.hidden).to(target.device)).cpu().numpy()
    close(output.logits, logits)


# ---- through the engine


class OracleDrafter(Drafter):
    """Knows the plain answers and lies with probability 0.3 a token. In a tree each guess has a wrong elder brother; two probes follow."""

    def __init__(self, answers: dict[str, list[int]], is_tree: bool):
        self.answers, self.is_tree, self.rng = answers, is_tree, np.random.default_rng(12)

    def propose(self, request: Request, budget: int) -> Draft:
        known = self.answers[request.id][request.num_output_tokens :]
        guesses = [self.lie(token) if self.rng.random() < 0.3 else token for token in known]
        if not self.is_tree:
            return Draft.chain(guesses[:budget])
        tokens, parents = [], []
        for depth, guess in enumerate(guesses[: budget // 2]):
            tokens += [self.lie(guess), guess]
            parents += [2 * depth - 1] * 2
        return Draft([*tokens, 1, 2], [*parents, -1, len(tokens) - 1], num_lookahead=2)

    def lie(self, token: int) -> int:
        return (token + int(self.rng.integers(1, V))) % V


PROMPTS = [random_tokens(13, 18, 8), random_tokens(14, 41, 8), [5]]  # few words, so that lookups find some
MAX_TOKENS = 20


def params_of(temperature: float) -> SamplingParams:
    penalties = {"repetition_penalty": 1.2} if temperature else {}  # processors look at the path of each node
    return SamplingParams(temperature=temperature, max_tokens=MAX_TOKENS, seed=77, **penalties)


def sampler_of(params: SamplingParams, prompt: list[int]) -> RequestSampler:
    return RequestSampler(params, params.seed, build_processors(params, prompt, frozenset(), V))


@cache
def answers_of(kind: str, device: str, temperature: float) -> dict[str, list[int]]:
    """The reference: a loop over plain forward passes that knows nothing of the engine or the target."""
    model, answers = model_of(kind, device), {}
    for i, prompt in enumerate(PROMPTS):
        sampler, text = sampler_of(params_of(temperature), prompt), list(prompt)
        for _ in range(MAX_TOKENS):
            text.append(sampler.draw(plain(model, text)[-1], [], len(text)))
            sampler.commit(text[-1:])
        answers[str(i)] = text[len(prompt) :]
    return answers


def run(target, drafter: Drafter, temperature: float, prompts: list[list[int]]) -> list[Request]:
    """Decode prompts in one engine whose passes mix chunks of prefill with decoding."""
    params, requests = params_of(temperature), []
    engine = Engine(target, EngineConfig(max_num_batched_tokens=24, min_prefill_chunk=7))
    strategy = Strategy("test", drafter, create_verifier("exact"), FixedController(6))
    for i, prompt in enumerate(prompts):
        requests.append(Request(str(i), list(prompt), params, sampler_of(params, prompt), strategy))
        engine.add(requests[-1])
    while engine.has_unfinished:
        engine.step()
    assert [request.finish_reason for request in requests] == ["length"] * len(prompts)
    return requests


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless(kind, temperature, device):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    assert len({tuple(answer) for answer in answers.values()}) == 3
    for spec in ("none", "blind", "prompt_lookup", "prompt_lookup:branches=3"):
        for count in (1, 3):
            drafter = create_drafter(spec, DrafterContext(target))
            requests = run(target, drafter, temperature, PROMPTS[:count])
            for request in requests:
                assert request.output_token_ids == answers[request.id], (spec, count)
            assert (sum(request.stats.num_draft_tokens for request in requests) > 0) == (spec != "none")
    assert not target.used


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_medusa(kind, temperature, device, tmp_path):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    random_medusa(target.base, own=kind == "gpt2", reduced=30 if kind == "qwen3" else None).save_pretrained(tmp_path)
    for spec in ("medusa:{}:threshold=0.001", "prompt_lookup+medusa:{}:threshold=0.001"):
        requests = run(target, create_drafter(spec.format(tmp_path), DrafterContext(target)), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values())
        assert sum(request.stats.num_draft_tokens for request in requests) > 50


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_eagle(kind, temperature, device, tmp_path):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    random_eagle(target.base, reduced=30 if kind == "qwen3" else None).save_pretrained(tmp_path)
    for spec in ("eagle:{}:threshold=0.001", "prompt_lookup+eagle:{}:threshold=0.001"):
        requests = run(target, create_drafter(spec.format(tmp_path), DrafterContext(target)), temperature, PROMPTS)
        assert [request.output_token_ids for request in requests] == list(answers.values())
        assert sum(request.stats.num_draft_tokens for request in requests) > 50


@pytest.mark.parametrize("is_tree", [False, True], ids=["chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("kind", ENGINE_KINDS)
def test_lossless_with_partial_acceptance(kind, temperature, is_tree, device):
    target, answers = hf.HFTarget(model_of(kind, device)), answers_of(kind, device, temperature)
    requests = run(target, OracleDrafter(answers, is_tree), temperature, PROMPTS)
    assert [request.output_token_ids for request in requests] == list(answers.values())
    num_drafted = sum(request.stats.num_draft_tokens for request in requests)
    num_accepted = sum(request.stats.num_accepted_tokens for request in requests)
    assert 0 < num_accepted < num_drafted / (2 if is_tree else 1)  # some guesses are right and some are wrong


# ---- which models, how long


ENCODER_DECODER = {"vocab_size": V, "d_model": 32, "d_ff": 32, "d_kv": 16, "num_layers": 1, "num_heads": 2}
LOCAL = {"vocab_size": V, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]}
SMALL = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("MambaConfig", **SMALL), "MambaForCausalLM has layers of type linear_attention, so wrong .* rolled back; use"),
        (
            lambda: build("RwkvConfig", **SMALL | {"num_hidden_layers": 2}),
            "RwkvForCausalLM has a recurrent state, so wrong guesses cannot be rolled back; use",
        ),
        (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**ENCODER_DECODER)), "is an encoder-decoder model; use"),
        (lambda: build("BloomConfig", vocab_size=V, hidden_size=32, n_layer=1, n_head=2), r"takes no position ids \(ALiBi.*; use"),
        (lambda: build("FalconConfig", alibi=True, **SMALL), r"takes no position ids \(ALiBi.*; use"),
        (lambda: build("GPTNeoConfig", **LOCAL), "layers of type local"),
        (lambda: build("Lfm2Config", **SMALL | {"layer_types": ["conv"]}), "layers of type conv"),
        (lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)), "load it with AutoModelForCausalLM"),
        (lambda: build("BertConfig", initializer_range=0.4, **SMALL), "ignores the mask"),  # it sees both directions
    ],
    ids=["mamba", "rwkv", "t5", "bloom", "falcon", "gpt_neo", "lfm2", "headless", "bert"],
)
def test_refusals(make, message):
    model = make()
    with pytest.raises(BadInputError, match=message) as caught:
        hf.HFTarget(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["MistralConfig", "Gemma2Config"])
def test_sliding_window_caps_the_length(name, caplog):
    head = {"head_dim": 16} if name == "Gemma2Config" else {}
    model, text = build(name, sliding_window=32, **SHAPE, **head), random_tokens(16, 32)
    with caplog.at_level("WARNING", "outpace"):
        target = hf.HFTarget(model)
    assert target.capabilities.max_len == 32
    assert [record.getMessage() for record in caplog.records] == ["texts are limited to 32 tokens by the model's sliding window"]
    slot = observe_prompt(target, text[:27])
    close(target.forward([Segment(slot, text[27:])]).logits, plain(model, text)[27:])


def test_max_len():
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    phi = SHAPE | {"pad_token_id": 0, "eos_token_id": 1, "rope_parameters": longrope, "original_max_position_embeddings": 64}
    assert hf.HFTarget(model_of("gpt2")).capabilities.max_len == 512
    assert hf.HFTarget(model_of("llama"), max_len=100).capabilities.max_len == 100
    assert hf.HFTarget(build("Qwen2Config", sliding_window=32, use_sliding_window=False, **SHAPE)).capabilities.max_len == 1024
    assert hf.HFTarget(build("Phi3Config", **phi)).capabilities.max_len == 64
    assert hf.HFTarget(model_of("llama"), max_len=5000).capabilities.max_len == 1024
    unused = SimpleNamespace(max_position_embeddings=64, sliding_window=8, use_sliding_window=False)
    assert hf._max_len(unused, None) == 64
    with pytest.raises(BadInputError, match="pass max_len"):
        hf._max_len(SimpleNamespace(), None)


def test_flex_attention_is_switched_to_sdpa():
    model = build("LlamaConfig", **SHAPE)
    model.set_attn_implementation("flex_attention")
    target = hf.HFTarget(model)
    assert model.config._attn_implementation == "sdpa"
    slot, text = observe_prompt(target, [1, 2, 3]), [1, 2, 3, 4, 5]
    close(target.forward([Segment(slot, text[3:])]).logits, plain(model, text)[3:])


def test_bfloat16_returns_float32(device):
    target = hf.HFTarget(build("LlamaConfig", device, **SHAPE).to(torch.bfloat16), hidden=True)
    output = target.forward([Segment(observe_prompt(target, [1, 2, 3]), [4, 5])])
    assert (output.logits.dtype, output.hidden.dtype) == (np.float32, np.float32)
    assert np.isfinite(output.logits).all()
