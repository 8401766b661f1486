"""The drafter that vLLM loads by `{"method": "custom_class", "model": "outpace.vllm.Proposer", "num_speculative_tokens": K}`.

vLLM calls `propose` after every step, with the whole batch, and waits for it. A draft is a chain of at most K tokens, and may be shorter or
empty. vLLM verifies it, so a wrong one costs time, never text. The interface is that of vLLM 0.32's V1 runner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from outpace.arrays import Array
from outpace.drafters.base import Drafter, DrafterContext, SuccessorLearner
from outpace.drafters.spec import create_drafter
from outpace.errors import BadInputError
from outpace.progress import note
from outpace.targets.identity import Base
from outpace.vllm.batch_texts import Text, Texts
from outpace.vllm.seen_logits import SeenLogits
from outpace.vllm.served_model import ServedModel, base_of_checkpoint


@dataclass(frozen=True)
class Options:
    """What `--additional-config '{"outpace": {…}}'` may say.

    drafter: a spec, such as `suffix:memory=100000+recycling`. threshold: a chain ends before its tokens are less likely than this.
    max_requests: for how many requests of a step drafts are made, at most.
    """

    drafter: str = "suffix"
    threshold: float = 0.1
    max_requests: int = 8

    @classmethod
    def of(cls, given: Any) -> Options:
        """Raises BadInputError for anything but these keys, with values of their types."""
        known = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(given, dict):
            raise BadInputError(f"outpace: the options in --additional-config must be an object, not {given!r}")
        for key, value in given.items():
            if key not in known:
                raise BadInputError(f"outpace: unknown option {key!r} in --additional-config; known: {', '.join(known)}")
            if type(value) is not known[key]:
                raise BadInputError(f"outpace: the option {key!r} must be of the type {known[key].__name__}, not {value!r}")
        options = cls(**given)
        if not 0 < options.threshold < 1 or options.max_requests < 1:
            raise BadInputError("outpace: need 0 < threshold < 1 and max_requests of at least 1")
        return options


@dataclass
class HostCost:
    """What drafting has cost: seconds, and for how many requests, each counted once per step."""

    seconds: float = 0.0
    num_requests: int = 0

    @property
    def microseconds(self) -> float:
        """Per request and step."""
        return 1e6 * self.seconds / max(1, self.num_requests)


class Proposer:
    """vLLM's custom proposer. If a drafter fails, it says why on stderr, once, and drafts nothing from then on."""

    def __init__(self, vllm_config: Any):
        model, extra = vllm_config.model_config, vllm_config.additional_config
        self.options = Options.of((extra if isinstance(extra, dict) else {}).get("outpace", {}))
        self.num_draft_tokens: int = vllm_config.speculative_config.num_speculative_tokens
        self.max_len: int = model.max_model_len
        self.end_tokens = _end_tokens(model.hf_config)
        self.drafter: Drafter = create_drafter(self.options.drafter, DrafterContext(_served(model)))
        self.texts = Texts(self.max_len)
        self.cost = HostCost()
        self.is_broken = False
        num_successors = self.drafter.num_successors if isinstance(self.drafter, SuccessorLearner) else 0
        max_rows = self.options.max_requests * (self.num_draft_tokens + 1)
        self.seen = SeenLogits(num_successors, max_rows) if num_successors else None
        self._has_warned = False

    def load_model(self, model: Any) -> None:
        """Called once with the model that vLLM has loaded."""
        if self.seen is not None:
            self.seen.watch(model)

    def propose(
        self, sampled_token_ids: Sequence[Sequence[int]], num_tokens_no_spec: Array, token_ids_cpu: Array, *_: Any, **__: Any
    ) -> list[list[int]]:
        """A draft for each row of the batch, empty where the prompt is still being run. See `Texts.update` for the arguments."""
        if self.is_broken:
            return [[] for _ in sampled_token_ids]
        started = time.perf_counter()
        try:
            drafts = self._propose(sampled_token_ids, num_tokens_no_spec, token_ids_cpu)
        except Exception as error:  # a drafter must never end vLLM's engine
            self.is_broken = True
            note(f"outpace: the drafter {self.options.drafter} failed, so nothing is drafted any more: {error!r}")
            return [[] for _ in sampled_token_ids]
        self.cost.seconds += time.perf_counter() - started
        self.cost.num_requests += len(sampled_token_ids)
        return drafts

    def _propose(self, sampled: Sequence[Sequence[int]], lengths: Array, token_ids: Array) -> list[list[int]]:
        rows, new, gone = self.texts.update(sampled, lengths, token_ids)
        for text in gone:
            self._end(text)
        for text in new:
            self.drafter.begin(text.request)
        self._learn(rows)
        chosen = [text for text in rows if text is not None]
        if len(chosen) > self.options.max_requests:
            self._warn(len(chosen))
        for text in chosen:
            text.draft = []
        chosen = chosen[: self.options.max_requests]
        budgets = [max(0, min(self.num_draft_tokens, self.max_len - text.length - 1)) for text in chosen]
        chains = self.drafter.propose_chains([text.request for text in chosen], budgets, self.options.threshold)
        for text, chain in zip(chosen, chains, strict=True):
            text.draft = chain
        return [[] if text is None else text.draft for text in rows]

    def _end(self, text: Text) -> None:
        """A text that is gone has ended, or was aborted or preempted: nobody says which. Tokens after its end were never part of it."""
        request = text.request
        ends = (place for place in range(request.num_prompt_tokens, text.length) if request.token_ids[place] in self.end_tokens)
        del request.token_ids[next(ends, text.length) :]
        request.finish_reason = "stop"
        self.drafter.end(request)

    def _learn(self, rows: Sequence[Text | None]) -> None:
        """Show the drafter what was likeliest at each token of the step: of every row the last token before the step, and its draft."""
        if self.seen is None or not isinstance(self.drafter, SuccessorLearner):
            return
        found = self.seen.take(sum(1 if text is None else 1 + len(text.draft) for text in rows))
        if found is None:  # too many rows, or vLLM has cut a draft (grammar, end of the budget) and does not say which
            return
        lines: list[int] = []  # of each row the token before those of the step, and these
        lengths, accepted = list[int](), list[int]()
        for text in rows:
            if text is None:
                lines += (-1, -1)
                lengths.append(1)
                accepted.append(-1)
                continue
            last = text.num_before - 1
            before, token = text.request.token_ids[last - 1 : last + 1] if last else (-1, text.request.token_ids[0])
            lines += (before, token, *text.draft)
            lengths.append(1 + len(text.draft))
            accepted.append(text.length - text.num_before - 1)
        row, line = np.repeat(np.arange(len(lengths)), lengths), np.array(lines)
        places = np.arange(len(row)) + row  # in `lines`, of the tokens before
        is_on_path = np.arange(len(row)) - (np.cumsum(lengths) - lengths)[row] <= np.array(accepted)[row]
        order = np.argsort(is_on_path, kind="stable")  # those on the path last, because they count most
        order = order[line[places[order] + 1] >= 0]
        if len(order):
            self.drafter.learn("", line[places[order]], line[places[order] + 1], found[0][order], found[1][order])

    def _warn(self, num_requests: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            most = self.options.max_requests
            note(f"outpace: {num_requests} requests at once; drafts are made for {most} of them (the option max_requests)")


def _end_tokens(hf_config: Any) -> frozenset[int]:
    """The tokens that end an answer: in configs one number, several, or none."""
    found = getattr(hf_config, "eos_token_id", None)
    return frozenset([] if found is None else [found] if isinstance(found, int) else found)


def _served(model_config: Any) -> ServedModel:
    return ServedModel(model_config.get_vocab_size(), model_config.max_model_len, _base(model_config))


def _base(model_config: Any) -> Base | None:
    """The identity of the model, from the folder or the hub's local copy that vLLM loads."""
    folder = Path(model_config.model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model_config.model, revision=model_config.revision, local_files_only=True))
        except (OSError, ValueError):
            return None
    return base_of_checkpoint(folder, folder.name)
