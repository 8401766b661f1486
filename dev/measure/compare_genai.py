"""Compare plain decoding with OpenVINO GenAI's LLMPipeline: same converted int8 model, same prompts, interleaved.

usage: pip install openvino-genai openvino-tokenizers; python dev/measure/compare_genai.py PROMPTS.jsonl [LIMIT]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

import openvino as ov
import openvino_genai
from openvino_tokenizers import convert_tokenizer
from transformers import AutoTokenizer

from outpace import LLM, SamplingParams
from outpace.bench.workloads import read_prompts
from outpace.engine.metrics import median
from outpace.models.find import converted

NUM_TOKENS = 128


def genai_folder(folder: Path) -> Path:
    """Copy the cached model to a folder, under the file names that LLMPipeline expects."""
    source = converted().folder
    for ending in ("xml", "bin"):
        shutil.copy(source / f"model.{ending}", folder / f"openvino_model.{ending}")
    tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
    ov.save_model(tokenizer, folder / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, folder / "openvino_detokenizer.xml")
    return folder


def main(prompts: str, limit: int) -> None:
    """Print the decoding speeds of both in tokens/s, and the median of the per-prompt ratios."""
    llm = LLM(speculative_config="none")
    with tempfile.TemporaryDirectory() as folder:
        pipeline = openvino_genai.LLMPipeline(str(genai_folder(Path(folder))), "CPU")
    config = openvino_genai.GenerationConfig(max_new_tokens=NUM_TOKENS, do_sample=False, ignore_eos=True, apply_chat_template=False)
    ratios, ours, theirs = [], [], []
    for number, workload in enumerate(read_prompts(Path(prompts), limit)):
        prompt = llm.tokenizer.encode_chat(workload.messages)
        text = llm.tokenizer.fast.decode(prompt, skip_special_tokens=False)
        for side in (0, 1) if number % 2 else (1, 0):
            if side == 0:
                output = llm.generate(prompt, SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True))[0]
                ours.append(output.stats.decode_seconds / NUM_TOKENS)
            else:
                started = time.perf_counter()
                metrics = pipeline.generate([text], config).perf_metrics
                theirs.append((time.perf_counter() - started - metrics.get_ttft().mean / 1e3) / (NUM_TOKENS - 1))
        ratios.append(theirs[-1] / ours[-1])
    print(f"outpace none {1 / median(ours):.1f} tokens/s, GenAI {1 / median(theirs):.1f} tokens/s, median ratio {median(ratios):.3f}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 24)
