"""Small tokenizers of two kinds, and texts built token by token."""

from functools import cache

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from outpace.models.tokenizer import TextBuilder, Tokenizer

SENTENCES = ["the quick brown fox jumps over the lazy dog", "the end of the story, the end of the day", "a stop is a stop is a stop"] * 4
SPECIAL = ["<|end|>", "<|user|>"]
MAN = "👩‍🚀"  # three characters, eleven bytes


@cache
def byte_level() -> Tokenizer:
    """A small byte-level BPE, as GPT-2, Llama 3, Qwen and SmolLM use it."""
    fast = FastTokenizer(BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast.train_from_iterator(SENTENCES, BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False))
    assert fast.get_vocab_size() > 280  # there are merges
    return Tokenizer(fast, special={"eos_token": "<|end|>"})


def stream(builder: TextBuilder, token_ids) -> list[str]:
    """What a reader is given after every token, and at the end; stops where the request would."""
    given_out, pieces = 0, []
    for token in token_ids:
        is_stopped = builder.feed(token)
        pieces.append(builder.text[given_out : builder.num_streamable])
        given_out = max(given_out, builder.num_streamable)
        if is_stopped:
            break
    pieces.append(builder.finish()[given_out:])
    return pieces


CHATML = (
    "{% for m in messages %}<|user|>{{ m.role }}: {{ m['content'] | trim }}<|end|>\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
