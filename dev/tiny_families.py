"""Tiny random models of many families, made from the configs of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB, CONTEXT, WINDOW, SWITCH = 128, 256, 40, 200  # tokens; SWITCH: of longrope
SIZES = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": CONTEXT}
SIZES |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MLA = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "head_dim": 8}
GROUPS = {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
GEMMA3N = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "laurel_rank": 8, "num_hidden_layers": 4}
SHARED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * 4}
SEQ2SEQ = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "is_decoder": True, "is_encoder_decoder": False}
SEQ2SEQ |= {"decoder_attention_heads": 4, "encoder_attention_heads": 4, "decoder_ffn_dim": 96, "encoder_ffn_dim": 96}
DECODER = {"is_decoder": True}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
UNSET: Any = object()  # a setting of SIZES that a family does not have

# name in the table -> (model type of transformers, settings besides SIZES)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "Mixtral": ("mixtral", EXPERTS),
    "Ministral": ("ministral", MIXED | {"sliding_window": WINDOW}),
    "Ministral 3": ("ministral3", {}),
    "Qwen2": ("qwen2", {}),
    "Qwen2, windows": ("qwen2", {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "Qwen2-MoE": ("qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 32}),
    "Qwen3": ("qwen3", {}),
    "Qwen3-MoE": ("qwen3_moe", EXPERTS),
    "Gemma": ("gemma", {}),
    "Gemma 2": ("gemma2", MIXED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "Gemma 3": ("gemma3_text", MIXED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "Gemma 3n": ("gemma3n_text", GEMMA3N | SHARED | {"sliding_window": WINDOW}),
    "Gemma 4": ("gemma4_text", GEMMA3N | SHARED | {"sliding_window": WINDOW, "global_head_dim": 32}),
    "VaultGemma": ("vaultgemma", MIXED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "Cohere": ("cohere", {"logit_scale": 1.0}),
    "Cohere 2": ("cohere2", MIXED | {"sliding_window": WINDOW, "logit_scale": 1.0}),
    "gpt-oss": ("gpt_oss", EXPERTS | MIXED | {"sliding_window": WINDOW}),
    "Phi": ("phi", {}),
    "Phi-3": ("phi3", {}),
    "Phi-3, longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": SWITCH}),
    "Phi-MoE": ("phimoe", EXPERTS),
    "OLMo": ("olmo", {}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", MIXED | {"sliding_window": WINDOW}),
    "OLMoE": ("olmoe", EXPERTS),
    "FlexOlmo": ("flex_olmo", EXPERTS),
    "Granite": ("granite", {}),
    "GraniteMoE": ("granitemoe", EXPERTS),
    "GraniteMoE, shared expert": ("granitemoeshared", EXPERTS | {"shared_intermediate_size": 32}),
    "GraniteMoE hybrid, attention only": (
        "granitemoehybrid",
        EXPERTS | {"shared_intermediate_size": 32, "layer_types": ["attention"] * 3, "position_embedding_type": "rope"},
    ),
    "GraniteMoE hybrid, Mamba": (
        "granitemoehybrid",
        EXPERTS | {"shared_intermediate_size": 32, "layer_types": ["mamba", "attention", "mamba"], "mamba_n_heads": 8, "mamba_d_state": 16},
    ),
    "DeepSeek V2": ("deepseek_v2", EXPERTS | MLA | GROUPS | {"num_key_value_heads": 4}),
    "DeepSeek V3": ("deepseek_v3", EXPERTS | MLA | GROUPS | {"num_key_value_heads": 4}),
    "MiniCPM3": ("minicpm3", MLA | {"num_key_value_heads": 4}),
    "Falcon, rotary": ("falcon", {"alibi": False, "head_dim": UNSET}),
    "Falcon, ALiBi": ("falcon", {"alibi": True, "head_dim": UNSET}),
    "GPT-2": ("gpt2", {}),
    "GPT-Neo": (
        "gpt_neo",
        {"num_hidden_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    ),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-J": ("gptj", {"rotary_dim": 8}),
    "GPT-BigCode": ("gpt_bigcode", {}),
    "CodeGen": ("codegen", {"rotary_dim": 8}),
    "OPT": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "BLOOM": ("bloom", {}),
    "MPT": ("mpt", {"d_model": 64, "n_layers": 2, "n_heads": 4}),
    "StableLM": ("stablelm", {}),
    "StarCoder 2": ("starcoder2", {"sliding_window": WINDOW}),
    "Persimmon": ("persimmon", {}),
    "Nemotron": ("nemotron", {}),
    "SmolLM3": ("smollm3", {"use_sliding_window": False}),
    "GLM": ("glm", {}),
    "GLM-4": ("glm4", {}),
    "GLM-4-MoE": ("glm4_moe", EXPERTS | GROUPS),
    "EXAONE 4": ("exaone4", MIXED | {"sliding_window": WINDOW}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "ERNIE 4.5 MoE": ("ernie4_5_moe", EXPERTS | {"moe_num_experts": 4, "moe_k": 2}),
    "Hunyuan dense": ("hunyuan_v1_dense", {}),
    "Hunyuan MoE": ("hunyuan_v1_moe", EXPERTS | {"moe_topk": 2}),
    "Arcee": ("arcee", {}),
    "Apertus": ("apertus", {}),
    "Helium": ("helium", {}),
    "Seed-OSS": ("seed_oss", {}),
    "dots.llm1": ("dots1", EXPERTS | GROUPS),
    "MiniMax M1": ("minimax", EXPERTS),
    "MiniMax M2": ("minimax_m2", EXPERTS),
    "Llama 4": (
        "llama4_text",
        EXPERTS | {"attention_chunk_size": WINDOW, "intermediate_size_mlp": 96, "num_hidden_layers": 4},
    ),
    "DiffLlama": ("diffllama", {}),
    "Doge": ("doge", {}),
    "BitNet": ("bitnet", {}),
    "BioGPT": ("biogpt", {}),
    "XGLM": ("xglm", {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96}),
    "ModernBERT decoder": ("modernbert-decoder", {"local_attention": WINDOW, "global_attn_every_n_layers": 2} | TOKENS),
    "JetMoE": ("jetmoe", EXPERTS | {"kv_channels": 16}),
    "DBRX": (
        "dbrx",
        {
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": CONTEXT,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        }
        | {"ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64}},
    ),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention", "conv"]}),
    "Mamba": ("mamba", {}),
    "Mamba 2": ("mamba2", {"num_heads": 8, "state_size": 16, "n_groups": 1}),
    "RecurrentGemma": ("recurrent_gemma", {"lru_width": 64, "attention_window_size": WINDOW}),
    "Jamba": ("jamba", EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1}),
    "Qwen3-Next": (
        "qwen3_next",
        EXPERTS | {"shared_expert_intermediate_size": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "num_hidden_layers": 4},
    ),
    "Pegasus decoder": ("pegasus", SEQ2SEQ),
    "Blenderbot decoder": ("blenderbot", SEQ2SEQ),
    "Marian decoder": ("marian", SEQ2SEQ | {"decoder_vocab_size": VOCAB, "pad_token_id": 0}),
    "PLBart decoder": ("plbart", SEQ2SEQ),
    "BART decoder": ("bart", SEQ2SEQ),
    "BERT decoder": ("bert", DECODER),
    "RoBERTa decoder": ("roberta", DECODER | {"pad_token_id": 0}),
    "ELECTRA decoder": ("electra", DECODER | {"embedding_size": 64}),
}


def build(name: str) -> Any:
    """The tiny model of a family in evaluation mode: float32, the same on every call, with weights wide enough that its tokens differ."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{key: value for key, value in (SIZES | settings).items() if value is not UNSET})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(noise * 0.3 if parameter.dim() > 1 else parameter + noise * 0.1)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """Save a model with a tokenizer of VOCAB words, as transformers would."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    words = {f"<{i}>": i for i in range(VOCAB)}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "<0>"))).save_pretrained(folder)
    return folder
