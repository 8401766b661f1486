"""Experimental: outpace's drafters inside vLLM, as `{"method": "custom_class", "model": "outpace.vllm.Proposer"}`. Imports without vLLM."""

from outpace.vllm.proposer import Proposer as Proposer
