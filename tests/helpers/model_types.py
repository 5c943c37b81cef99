"""A tiny base model with random weights of any type that transformers can classify texts with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from helpers.corpora import WORDS
from helpers.encoders import xlnet_tokenizer

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
IDS = {
    "bos_token_id": 0,
    "cls_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
    "mask_token_id": 4,
}
VOCABULARY, POSITIONS, LAYERS, WIDTH, HEADS = 64, 40, 2, 32, 4
"""Sizes of the models."""
SIZES: dict[str, Any] = IDS | {
    **dict.fromkeys(("vocab_size", "n_vocab", "input_embedding_size"), VOCABULARY),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "num_positions"), POSITIONS),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
         "num_decoder_layers"), LAYERS),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "output_embedding_size",
         "pooler_hidden_size", "word_embed_proj_dim", "true_hidden_size"), WIDTH),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
         "decoder_attention_heads"), HEADS),
    **dict.fromkeys(
        ("intermediate_size", "hidden_dim", "n_inner", "d_inner", "d_ff", "dff", "encoder_ffn_dim", "decoder_ffn_dim",
         "ffn_dim", "ffn_hidden_size", "feed_forward_size", "moe_intermediate_size", "shared_expert_intermediate_size",
         ), WIDTH),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_size", "kv_channels", "v_head_dim",
                     "qk_nope_head_dim", "qk_rope_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok",), 2),
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_head_dim": 16,
    "sliding_window": 16,
}  # fmt: skip


def make_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {name: SPECIAL[number] for name, number in IDS.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", **{name.removesuffix("_id"): token for name, token in names.items()}
    )


_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
# What the sizes above do not fit, or leave large.
PECULIAR: dict[str, dict[str, Any]] = {
    "canine": {"num_hash_buckets": VOCABULARY, "local_transformer_stride": 8},
    "cohere_compass_text": {"layer_types": ["full_attention", "sliding_attention"],
                            "rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), _ROPE)},
    "esmc": {"num_key_value_heads": HEADS},
    "funnel": {"block_sizes": [1, 1], "architectures": ["FunnelModel"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "layoutlmv3": {"max_2d_position_embeddings": 32, "coordinate_size": 8, "shape_size": 8, "input_size": 32,
                   "hidden_size": 48},
    "gptj": {"rotary_dim": 4},
    "lilt": {"hidden_size": 48, "max_2d_position_embeddings": 32},
    "longformer": {"attention_window": 8},
    "mobilebert": {"intra_bottleneck_size": WIDTH},
    "mistral4": {"num_key_value_heads": HEADS, "head_dim": 16},
    "minicpm3": {"num_key_value_heads": HEADS},
    "axk1": {"num_key_value_heads": HEADS, "n_group": 2, "topk_group": 1},
    **{kind: {"num_key_value_heads": HEADS} for kind in ("axk2", "deepseek_v2", "deepseek_v3")},
    **{kind: {"decoder_start_token_id": 1} for kind in ("mt5", "t5", "umt5")},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "xmod": {"default_language": "en_XX"},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": WIDTH},
    "markuplm": {"max_depth": 4},
    "perceiver": {"num_latents": 8, "d_latents": WIDTH, "num_self_attends_per_block": 2,
                  "num_self_attention_heads": HEADS,
                  "num_cross_attention_heads": HEADS},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [8, 24], "max_position_embeddings": 64,
                 "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8,
                 "num_buckets": 2, "hash_seed": 0},
    "roc_bert": {"pronunciation_vocab_size": VOCABULARY, "shape_vocab_size": VOCABULARY, "shape_embed_dim": WIDTH,
                 "pronunciation_embed_dim": WIDTH},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2,
              "attention_hidden_size": 2 * WIDTH, "attention_head_dim": 16, "mamba_dt_rank": 4, "mamba_d_state": 4},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
               "mamba_headdim": 8, "mamba_d_state": 4, "adapter_rank": 4, "hybrid_layer_ids": [1],
               "attention_hidden_size": 2 * WIDTH, "attention_head_dim": 16, "num_query_groups": HEADS,
               "chunk_size": 8},
}  # fmt: skip
_LINEAR = {
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": HEADS,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
PECULIAR |= dict.fromkeys(("qwen3_5_text", "qwen3_next"), _LINEAR)
_VISION = {"image_size": 32, "patch_size": 16, "depth": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 16}


def tiny_config(kind: str) -> Any:
    return AutoConfig.for_model(kind, **_tiny(AutoConfig.for_model(kind)))


def _tiny(config: Any) -> dict[str, Any]:
    """The fields of a config that are not as small as they can be."""
    fields = {name: value for name, value in config.to_dict().items() if name not in config.attribute_map}
    is_vision = "vision" in config.model_type
    sizes = SIZES | (_VISION if is_vision else {})
    tiny = {name: value for name, value in sizes.items() if name in fields} | PECULIAR.get(config.model_type, {})
    tiny |= {name: None for name in ("layer_types",) if name in fields and name not in tiny}
    for name in config.sub_configs:
        if fields.get(name):
            part = getattr(config, name)
            tiny[name] = {"model_type": part.model_type, **_tiny(part)}
    return tiny


def make_base(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModel.from_config(tiny_config(kind))
    # Norms and biases that start as ones and zeros would hide one that is left out.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    model.save_pretrained(folder)
    (OPENED_BY_TYPE.get(kind) or make_tokenizer)().save_pretrained(folder)
    return folder


def _qwen2_tokenizer() -> Qwen2Tokenizer:
    letters = ["<unk>", "<pad>", "</s>", "Ġ", *ascii_lowercase, *digits]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    return Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token="<unk>", pad_token="<pad>", eos_token="</s>", bos_token=None
    )


OPENED_BY_TYPE: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "qwen2": _qwen2_tokenizer,
    "qwen3_5": _qwen2_tokenizer,
    "xlnet": xlnet_tokenizer,
}
"""Tokenizers of types that transformers opens with no other."""
