"""A model that says what a script tells it, byte by byte, so that it can play an agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE

from outpace.llm import LLM
from outpace.models.tokenizer import Tokenizer
from outpace.targets.toy import ToyTarget

START = "<start>"  # before every answer
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
# The conversation as JSON lines. The second part is never shown: families are recognised by such lines of their templates.
TEMPLATE = """{{% if tools %}}tools: {{{{ tools | tojson }}}}
{{% endif %}}{{% for m in messages %}}{{{{ m | tojson }}}}
{{% if m.tool_calls %}}{{% endif %}}{{% endfor %}}{start}{{% if false %}}{family}{{% endif %}}"""
FAMILIES = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    "llama3": '{"name": "f", "parameters": {}}',
    "mistral": '[TOOL_CALLS][{"name": "f", "arguments": {}}]',
    "mistral-spaced": '[TOOL_CALLS] [{"name": "f", "arguments": {}}]',
    "mistral-args": "[TOOL_CALLS]f[ARGS]{}",
    "qwen-tags": "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "glm-dense": "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>",
    "unknown": "",
}


class ScriptedTarget(ToyTarget):
    """After the prompt comes `script(prompt)`, then the end. Where something else was said it closes what is open, or says anything."""

    def __init__(self, script: Callable[[str], str], encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], str], size: int):
        super().__init__(vocab_size=2)
        self.capabilities = replace(self.capabilities, vocab_size=size, max_len=80_000, hidden=False, lookahead=False)
        self.script, self.encode, self.decode = script, encode, decode
        self.noise = np.random.default_rng(0).normal(0, 0.5, (251, size)).astype(np.float32)
        for letter, preference in (("}", 6), ("]", 5), ('"', 5), (",", 4), ("0", 1)):
            self.noise[:, LETTERS.index(letter)] += preference

    def logits_after(self, context: Sequence[int]) -> Any:
        prompt = self.decode(context).rpartition(START)[0]
        wanted, said = [*self.encode(self.script(prompt)), len(LETTERS)], list(context[len(self.encode(prompt + START)) :])
        logits = self.noise[len(context) % 251].copy()
        if wanted[: len(said)] == said and len(said) < len(wanted):
            logits[wanted[len(said)]] += 60
        return logits


def scripted_llm(monkeypatch: Any, script: Callable[[str], str], family: str = "hermes", specials: Sequence[str] = ()) -> LLM:
    """An LLM with this script and a chat format of this family; `specials` are special tokens besides the end token."""
    fast = FastTokenizer(BPE(vocab={letter: i for i, letter in enumerate([*LETTERS, "<end>"])}, merges=[]))
    fast.add_special_tokens(["<end>", *specials])
    fast.decoder, fast.pre_tokenizer = decoders.ByteLevel(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    size = len(LETTERS) + 1 + len(specials)

    def decode(token_ids: Sequence[int]) -> str:
        return fast.decode(list(token_ids), skip_special_tokens=False)

    target = ScriptedTarget(script, lambda text: fast.encode(text).ids, decode, size)
    tokenizer = Tokenizer(fast, TEMPLATE.format(start=START, family=FAMILIES[family]), {"eos_token": "<end>"})
    monkeypatch.setattr("outpace.llm.load", lambda *_: ("scripted", target, tokenizer, frozenset({len(LETTERS)}), "f32"))
    return LLM("scripted", "prompt_lookup")
