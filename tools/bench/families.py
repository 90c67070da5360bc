"""Families of architectures in transformers, each as a tiny network with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers

BATCH, IMAGE, TOKENS, SAMPLES, VOCABULARY = 2, 64, 7, 4000, 99
Inputs = Callable[[], dict[str, Any]]
Build = Callable[[], Any]


@dataclass(frozen=True)
class Family:
    """How to build one network, by the names of transformers' classes, and what to feed it and read from it."""

    model: str
    config: str
    options: Mapping[str, Any]
    inputs: Inputs
    outputs: tuple[str, ...] = ("logits",)
    part: str | None = None  # the module to export, where that is not the whole model

    def build(self) -> Any:
        """Return the network, in evaluation mode."""
        torch.manual_seed(0)
        options = {key: value() if callable(value) else value for key, value in self.options.items()}
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**options)).eval()
        return model if self.part is None else model.get_submodule(self.part)


def image() -> dict[str, Any]:
    """pixel_values[n,3,h,w]"""
    return {"pixel_values": torch.randn(BATCH, 3, IMAGE, IMAGE)}


def text() -> dict[str, Any]:
    """input_ids[n,t]"""
    return {"input_ids": torch.randint(2, VOCABULARY, (BATCH, TOKENS))}


def masked_text() -> dict[str, Any]:
    """input_ids[n,t] and attention_mask[n,t]"""
    return text() | {"attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.int64)}


def two_texts() -> dict[str, Any]:
    """input_ids[n,t] for the encoder and decoder_input_ids[n,t] for the decoder"""
    return {"input_ids": text()["input_ids"], "decoder_input_ids": text()["input_ids"]}


def text_and_image() -> dict[str, Any]:
    """input_ids[n,t] and pixel_values[n,3,h,w]"""
    return text() | image()


def waveform() -> dict[str, Any]:
    """input_values[n,t]"""
    return {"input_values": torch.randn(BATCH, SAMPLES)}


def spectrogram() -> dict[str, Any]:
    """input_features[n,c,t]"""
    return {"input_features": torch.randn(BATCH, 16, 40)}


def small_resnet() -> Any:
    """The configuration of a backbone."""
    return transformers.ResNetConfig(**RESNET, out_features=["stage4"])


def vision(stem: str, model: str = "ForImageClassification", /, **options: Any) -> Family:
    """A network for images, of a family whose classes begin with stem."""
    return Family(stem + model, stem + "Config", options, image)


def encoder(stem: str, /, **options: Any) -> Family:
    """A network that classifies texts."""
    return Family(
        f"{stem}ForSequenceClassification", f"{stem}Config", {**TRANSFORMER, "vocab_size": VOCABULARY, **options}, masked_text
    )


def decoder(stem: str, model: str = "ForCausalLM", /, **options: Any) -> Family:
    """A network that predicts the next token of a text."""
    options = {"vocab_size": VOCABULARY, "use_cache": False, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2} | options
    return Family(stem + model, stem + "Config", options, masked_text)


def speech(stem: str) -> Family:
    """A network that classifies sounds."""
    options = {"conv_dim": (16, 16), "conv_kernel": (10, 5), "conv_stride": (5, 4), "num_conv_pos_embedding_groups": 4}
    options |= {"num_conv_pos_embeddings": 16, "classifier_proj_size": 32}
    return Family(f"{stem}ForSequenceClassification", f"{stem}Config", {**TRANSFORMER, **options}, waveform)


TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PATCHES = {**TRANSFORMER, "image_size": IMAGE, "patch_size": 16}
GROUPED = {**TRANSFORMER, "num_key_value_heads": 2}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}
STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
WINDOWS = {"image_size": IMAGE, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32}
DETECTION = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "backbone_config": small_resnet}
BLOCKS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32}
WIDE = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
BOXES = ("logits", "pred_boxes")
SPEAKING = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SIGHT_AND_TEXT = {
    "text_config": {**TRANSFORMER, "vocab_size": VOCABULARY, "eos_token_id": 1},
    "vision_config": PATCHES,
    "projection_dim": 24,
}
PLAIN_ATTENTION = {"attn_implementation": "eager"}  # where torch 2.13 fails to export the default

FAMILIES = {
    "resnet": vision("ResNet", **RESNET),
    "regnet": vision("RegNet", **RESNET, groups_width=8),
    "convnext": vision("ConvNext", **STAGES),
    "convnextv2": vision("ConvNextV2", **STAGES),
    "mobilenet_v1": vision("MobileNetV1", depth_multiplier=0.25),
    "mobilenet_v2": vision("MobileNetV2", depth_multiplier=0.25),
    "efficientnet": vision("EfficientNet", width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320, image_size=IMAGE),
    "bit": vision("Bit", embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], num_groups=8),
    "poolformer": vision("PoolFormer", hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1]),
    "mobilevit": vision(
        "MobileViT", **{**TRANSFORMER, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 16, 24, 24, 32, 64]}
    ),
    "vit": vision("ViT", **PATCHES),
    "deit": vision("DeiT", **PATCHES),
    "beit": vision("Beit", **PATCHES, **PLAIN_ATTENTION, use_relative_position_bias=True),
    "dinov2": vision("Dinov2", **TRANSFORMER, image_size=IMAGE, patch_size=16),
    "swin": vision("Swin", **WINDOWS, **PLAIN_ATTENTION),
    "swinv2": vision("Swinv2", **WINDOWS),
    "focalnet": vision("FocalNet", image_size=IMAGE, embed_dim=16, depths=[1, 1], focal_levels=[2, 2], focal_windows=[3, 3]),
    "cvt": vision("Cvt", embed_dim=[16, 32, 32], num_heads=[1, 2, 2], depth=[1, 2, 3]),
    "pvt": vision("Pvt", image_size=IMAGE, **{k: v for k, v in PYRAMID.items() if k != "decoder_hidden_size"}),
    "levit": vision(
        "Levit", image_size=IMAGE, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8] * 3
    ),
    "segformer": vision("Segformer", "ForSemanticSegmentation", **PYRAMID),
    "detr": Family("DetrForObjectDetection", "DetrConfig", {**DETECTION, **BLOCKS, **WIDE, "num_queries": 5}, image, BOXES),
    "yolos": Family(
        "YolosForObjectDetection", "YolosConfig", {**PATCHES, "image_size": [IMAGE] * 2, "num_detection_tokens": 5}, image, BOXES
    ),
    "bert": encoder("Bert"),
    "roberta": encoder("Roberta", pad_token_id=0),
    "electra": encoder("Electra", embedding_size=16),
    "albert": encoder("Albert", embedding_size=16),
    "distilbert": encoder("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "deberta_v2": encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "squeezebert": encoder("SqueezeBert", embedding_size=32),
    "gpt2": decoder("GPT2", "LMHeadModel", n_embd=32, n_layer=2, n_head=4),
    "gpt_neox": decoder("GPTNeoX", **TRANSFORMER),
    "opt": decoder("OPT", hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64),
    "bloom": decoder("Bloom", hidden_size=32, n_layer=2, n_head=4),
    "llama": decoder("Llama", **GROUPED),
    "mistral": decoder("Mistral", **GROUPED),
    "qwen2": decoder("Qwen2", **GROUPED),
    "qwen3": decoder("Qwen3", **GROUPED, head_dim=8),
    "gemma": decoder("Gemma", **GROUPED, head_dim=8),
    "phi3": decoder("Phi3", **GROUPED),
    "olmo2": decoder("Olmo2", **GROUPED),
    "mixtral": decoder("Mixtral", **GROUPED, num_local_experts=4, experts_implementation="batched_mm"),
    "mamba": decoder("Mamba", hidden_size=32, num_hidden_layers=2, state_size=8),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {**SPEAKING, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "use_cache": False, **PLAIN_ATTENTION},
        two_texts,
    ),
    "bart": Family("BartForConditionalGeneration", "BartConfig", {**SPEAKING, **BLOCKS, **WIDE, "use_cache": False}, two_texts),
    "whisper_encoder": Family(
        "WhisperModel",
        "WhisperConfig",
        {**SPEAKING, **BLOCKS, **WIDE, "num_mel_bins": 16, "max_source_positions": 20, "max_target_positions": 20},
        spectrogram,
        ("last_hidden_state",),
        part="encoder",
    ),
    "wav2vec2": speech("Wav2Vec2"),
    "hubert": speech("Hubert"),
    "wavlm": speech("WavLM"),
    "clip": Family("CLIPModel", "CLIPConfig", SIGHT_AND_TEXT, text_and_image, ("logits_per_image",)),
}
