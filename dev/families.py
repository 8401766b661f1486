"""Which model families run right on which target: tiny random models of each, compared with transformers itself in float32.

usage: python dev/families.py [NAME...] [--target openvino|hf] [--results FILE] [--write]

A family is right if, behind prompts of 12, 40 and 150 tokens in one batch, its 20 greedy tokens are those of transformers, its logits
are close to transformers', and drafters with random acceptance give the plain tokens, greedy and sampled. A refusal is one line. The
exit code is 1 if anything is WRONG. Verdicts are kept in the lines of FILE, where a later run finds them and goes on. With --write the
table goes into docs/models.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent))
from tiny_families import CONTEXT, FAMILIES, SWITCH, VOCAB, WINDOW, build, save

from outpace.config import EngineConfig
from outpace.drafters.base import DrafterContext
from outpace.drafters.spec import create_drafter
from outpace.errors import OutpaceError
from outpace.params import SamplingParams
from outpace.testing import OracleDrafter, generate
from outpace.tree.segment import Segment

TARGETS = ("openvino", "hf")
LENGTHS, NUM_NEW = (12, 40, 150), 20  # tokens
TOLERANCE = 1e-3  # of the largest logit
RIGHT = "right"
LIMITED = {WINDOW: "one chunk of", SWITCH: "`original_max_position_embeddings`"}  # tokens of a tiny model -> of the real one
PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- families: made by dev/families.py -->\n", "<!-- families: end -->\n"


def prompts() -> list[list[int]]:
    """One random prompt of each length."""
    return [np.random.default_rng(length).integers(3, VOCAB, length).tolist() for length in LENGTHS]


def greedy(model: Any, prompt: list[int]) -> list[int]:
    """The next tokens by transformers' own generate."""
    ids = torch.tensor([prompt])
    settings = {"max_new_tokens": NUM_NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    out: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()
    return out


def logits_off(target: Any, tokens: list[int], expected: Any, chunk: int) -> float:
    """The largest difference of the logits of a text run in chunks, as a share of the largest logit."""
    slot, rows = target.allocate(len(tokens)), []
    for start in range(0, len(tokens), chunk):
        piece = tokens[start : start + chunk]
        rows.append(target.forward([Segment(slot, piece)]).logits.copy())
        target.accept(slot, piece, range(len(piece)))
    target.free(slot)
    return float(np.abs(np.concatenate(rows) - expected).max() / np.abs(expected).max())


def fault_of(target: Any, texts: list[list[int]], answers: list[list[int]], expected: Any) -> str:
    """What is wrong with the texts of a target; "" if nothing is."""
    longest = texts[-1][: target.capabilities.max_len]
    for chunk in (len(longest), 37, 5):
        if (off := logits_off(target, longest, expected[: len(longest)], chunk)) > TOLERANCE:
            return f"logits off by {off:.1%} in chunks of {chunk}"
    texts = [text for text in texts if len(text) + NUM_NEW <= target.capabilities.max_len]
    for temperature in (0.0, 0.8):
        params = SamplingParams(max_tokens=NUM_NEW, temperature=temperature, ignore_eos=True)
        config = EngineConfig(max_num_batched_tokens=64, min_prefill_chunk=5)
        plain = generate(target, texts, params, config=config)
        if temperature == 0 and plain != answers[: len(texts)]:
            return "other tokens than transformers"
        known = {tuple(text): answer for text, answer in zip(texts, plain, strict=True)}
        drafters = [OracleDrafter(DrafterContext(target), known, lie=0.3, width=width) for width in (1, 3)]
        for drafter in (*drafters, create_drafter("suffix+recycling", DrafterContext(target))):
            if generate(target, texts, params, drafter, num_draft_tokens=9) != plain:
                return f"{type(drafter).__name__} changes the text at temperature {temperature}"
    return ""


def openvino_target(model: Any, folder: Path) -> Any:
    """The model converted in this process, which spares a start of Python."""
    from outpace.models.convert import convert
    from outpace.targets.openvino.target import OpenVINOTarget

    out = folder / "converted"
    out.mkdir()
    convert(save(model, folder / "model"), out, "f32", tell=lambda stage: None)
    facts = json.loads((out / "config.json").read_text("utf-8"))
    sizes = {"vocab_size": facts["vocab_size"], "max_len": facts["max_len"]}
    return OpenVINOTarget(out / "model.xml", precision="f32", kv_cache_tokens=2048, **sizes)


def hf_target(model: Any, _: Path) -> Any:
    """The live model."""
    from outpace.targets.hf.target import HFTarget

    return HFTarget(model)


def check(name: str, target: str) -> str:
    """The verdict on a family: "right", "refused: …" or "WRONG: …"."""
    texts = prompts()
    try:
        model = build(name)
        with torch.inference_mode():
            expected = model(torch.tensor([texts[-1]]), use_cache=False).logits[0].numpy()
        answers = [greedy(model, text) for text in texts]
    except Exception as error:
        return f"WRONG: transformers cannot run it: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    with tempfile.TemporaryDirectory(prefix="outpace-families-") as folder:
        try:
            built = (openvino_target if target == "openvino" else hf_target)(model, Path(folder))
            fault = fault_of(built, texts, answers, expected)
            limit = built.capabilities.max_len
        except OutpaceError as error:
            line = str(error)
            return f"refused: {line}" if "\n" not in line else f"WRONG: a refusal of several lines: {line}"
        except Exception as error:
            return f"WRONG: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
    if fault:
        return f"WRONG: {fault}"
    return RIGHT if limit == CONTEXT else f"{RIGHT}, at most {LIMITED.get(limit, limit)} tokens"


def table(rows: dict[str, dict[str, str]]) -> str:
    """The table as Markdown, with the reasons of refusals below it."""
    lines = ["| family | OpenVINO | hf |", "|---|---|---|"]
    reasons: list[str] = []
    for name, verdicts in rows.items():
        cells = [name]
        for target in TARGETS:
            cell, is_refused, reason = verdicts.get(target, "").partition("refused: ")
            if is_refused:
                reason = re.sub(r"^\w+For\w+ ", "", reason)
                reasons += [] if reason in reasons else [reason]
                cell = f"refused ({reasons.index(reason) + 1})"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))]) + "\n"


def main() -> int:
    """Check the families and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="families of the table; default: all")
    parser.add_argument("--target", choices=TARGETS, action="append")
    parser.add_argument("--results", type=Path, help="file of verdicts, one JSON object per line")
    parser.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    rows: dict[str, dict[str, str]] = {name: {} for name in args.names or FAMILIES}
    for line in args.results.read_text("utf-8").splitlines() if args.results and args.results.exists() else ():
        for name, verdicts in json.loads(line).items():
            rows.get(name, {}).update(verdicts)
    for name, verdicts in rows.items():
        for target in args.target or TARGETS:
            if target not in verdicts:
                verdicts[target] = check(name, target)
                line = json.dumps({name: {target: verdicts[target]}}, ensure_ascii=False)
                print(line, file=sys.stderr, flush=True)  # noqa: T201
                if args.results:
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
    print(table(rows), end="")  # noqa: T201
    if args.write:
        page = PAGE.read_text("utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(before + BEGIN + "\n" + table(rows) + "\n" + END + rest.partition(END)[2], "utf-8")
    return int(any(cell.startswith("WRONG") for cells in rows.values() for cell in cells.values()))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
