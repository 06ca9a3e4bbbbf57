"""Small random configurations of Hugging Face transformers, and inputs for them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxplastic.errors import FxPlasticError
from fxplastic.zoo.inputs import Inputs

WORDS, TOKENS = 96, 12
_IMAGE = (3, 64, 64)


@dataclass(frozen=True)
class Config:
    """One configuration.

    Attributes:
        model: name of the model's class.
        config: name of its configuration's class.
        settings: of the configuration.
        floats: shapes of floating inputs without the batch, by name.
        tokens: shapes of integer inputs without the batch, by name, and how many words there are.
    """

    model: str
    config: str
    settings: Mapping[str, Any]
    floats: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    words: int = WORDS


_TEXT = {"input_ids": (TOKENS,)}
_PIXELS = {"pixel_values": _IMAGE}
_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_CLIP = {**_ENCODER, "vocab_size": WORDS, "eos_token_id": WORDS - 1, "bos_token_id": 0}

CONFIGS: dict[str, Config] = {
    "bert": Config(
        "BertForSequenceClassification",
        "BertConfig",
        {**_ENCODER, "vocab_size": WORDS, "max_position_embeddings": 32},
        tokens=_TEXT,
    ),
    "gpt2": Config(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": WORDS, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4,
         "use_cache": False, "bos_token_id": 0, "eos_token_id": 1},
        tokens=_TEXT,
    ),
    "llama": Config(
        "LlamaForCausalLM",
        "LlamaConfig",
        {**_ENCODER, "vocab_size": WORDS, "num_key_value_heads": 2, "use_cache": False,
         "max_position_embeddings": 64},
        tokens=_TEXT,
    ),
    "t5": Config(
        "T5ForConditionalGeneration",
        "T5Config",
        {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
         "num_heads": 4, "use_cache": False, "decoder_start_token_id": 0},
        tokens={"input_ids": (TOKENS,), "decoder_input_ids": (TOKENS - 2,)},
    ),
    "vit": Config(
        "ViTForImageClassification",
        "ViTConfig",
        {**_ENCODER, "image_size": 64, "patch_size": 16, "num_labels": 10},
        floats=_PIXELS,
    ),
    "swin": Config(
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 4, "num_labels": 10},
        floats=_PIXELS,
    ),
    "convnextv2": Config(
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1], "num_labels": 10,
         "image_size": 64},
        floats=_PIXELS,
    ),
    "segformer": Config(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1],
         "num_attention_heads": [1, 2, 4, 5], "decoder_hidden_size": 32, "num_labels": 10},
        floats=_PIXELS,
    ),
    "clip": Config(
        "CLIPModel",
        "CLIPConfig",
        {"text_config": {**_CLIP, "max_position_embeddings": 32},
         "vision_config": {**_ENCODER, "image_size": 64, "patch_size": 16},
         "projection_dim": 24},
        floats=_PIXELS,
        tokens=_TEXT,
    ),
    "whisper": Config(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {"vocab_size": WORDS, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2,
         "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 32,
         "max_target_positions": 32, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2, "decoder_start_token_id": 1},
        floats={"input_features": (8, 64)},
        tokens={"decoder_input_ids": (TOKENS,)},
    ),
    "mamba": Config(
        "MambaForCausalLM",
        "MambaConfig",
        {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8,
         "use_cache": False},
        tokens=_TEXT,
    ),
}  # fmt: skip


def build(name: str) -> nn.Module:
    """The model with random weights.

    Raises:
        FxPlasticError: transformers is not installed.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise FxPlasticError(
            "this part of the zoo needs transformers: pip install 'fxplastic[zoo]'"
        ) from error
    one = CONFIGS[name]
    config = getattr(library, one.config)(**one.settings)
    model: nn.Module = getattr(library, one.model)(config)
    return model


def inputs(name: str, batch: int) -> Inputs:
    """Inputs of a configuration."""
    one = CONFIGS[name]
    return Inputs(
        shapes=tuple((batch, *shape) for shape in one.floats.values()),
        named=tuple(one.floats),
        tokens={n: ((batch, *shape), one.words) for n, shape in one.tokens.items()},
    )
