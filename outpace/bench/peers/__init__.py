"""Other engines to compare with (`outpace bench --peers`): a table of them, each a file that runs in an environment of its own.

A peer's file imports its library inside functions only, as outpace reads its constants and `peer_worker.py` runs it elsewhere. It has
PACKAGES (what pip installs, if anything; `environment.py` has more of that kind), MODEL (what it reads: "gguf", "openvino" or "folder"),
WAYS (specs of the ways to decode that need no argument, plain first), and `load(model, draft_model, way, options, threads)`, which returns
what it loaded, for the record, and a function (prompt_token_ids, max_tokens) -> {"token_ids" or "text", "num_decoded", "decode_seconds"}.
`num_decoded` tokens came in `decode_seconds`, the time from the first token to the last; greedy decoding.
"""

PEERS = {  # name -> file in this folder
    "llama.cpp": "llama_cpp",
    "llama-server": "llama_server",
    "genai": "genai",
    "transformers": "transformers_generate",
    "vllm": "vllm_cpu",
}
