"""Tiny random models of many families, with the layer of each parameter written by hand from their forward methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tr
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

ROWS, LENGTH, VOCABULARY, CLASSES = 4, 6, 40, 3
LABELS = torch.tensor([0, 1, 2, 0])

# ----------------------------------------------------------------------------------------------------
# Plain torch models
# ----------------------------------------------------------------------------------------------------


class LSTMClassifier(nn.Module):
    """Registered against the order in which it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(12, CLASSES)
        self.norm = nn.LayerNorm(12)
        self.dropout = nn.Dropout(0.5)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.embed = nn.Embedding(VOCABULARY, 8)

    def forward(self, input_ids: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(input_ids))
        return self.classifier(self.dropout(self.norm(states.mean(1))))


class TransformerClassifier(nn.Module):
    """The blocks of `nn.TransformerEncoder` read weights whose modules they never call."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, CLASSES)
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.position = nn.Parameter(torch.randn(LENGTH, 8))
        block = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, num_layers=3, norm=nn.LayerNorm(8))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.classifier(self.encoder(self.embed(input_ids) + self.position).mean(1))


class Expert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class ExpertBlock(nn.Module):
    """Parallel experts that look like the blocks of a stage. The first block of the model has fewer."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x)
        return x + sum(expert(mixed) for expert in self.experts)


class MixtureOfExperts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.layers = nn.ModuleList([ExpertBlock(2), ExpertBlock(3)])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class LowRank(nn.Module):
    """Adds a product of two small matrices to a weight."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(rows, 2)), nn.Parameter(torch.randn(2, columns))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.left @ self.right


class Reparametrised(nn.Module):
    """Weights in parts, which are no blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = parametrize.register_parametrization(nn.Embedding(VOCABULARY, 8), "weight", LowRank(VOCABULARY, 8))
        self.convs = nn.ModuleList(weight_norm(nn.Conv1d(8, 8, 1)) for _ in range(2))
        self.layers = nn.Sequential(Expert(), Expert(), Expert())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).transpose(1, 2)
        for conv in self.convs:
            x = conv(x)
        return self.head(self.layers(x.mean(2)))


class Towers(nn.Module):
    """Two blocks side by side, the second of which borrows a weight of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.towers = nn.ModuleList([Expert(), Expert()])

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).mean(1)
        first, second = self.towers
        return first(x) * second(first.down(first.up(x)))


class TextCNN(nn.Module):
    """Its convolutions stand side by side: no order."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.convs = nn.ModuleList(nn.Conv1d(8, 4, width) for width in (2, 3))
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).transpose(1, 2)
        return self.classifier(torch.cat([conv(x).amax(-1) for conv in self.convs], dim=-1))


class NoContainer(nn.Module):
    """Nothing repeats: only the user can say what its layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.dropout(self.second(self.first(self.embed(input_ids).mean(1)))))


def mlp() -> nn.Module:
    hidden = nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5)
    return nn.Sequential(*hidden, nn.Linear(8, CLASSES))


# ----------------------------------------------------------------------------------------------------
# Batches
# ----------------------------------------------------------------------------------------------------


def text() -> dict[str, Tensor]:
    input_ids = torch.randint(5, 30, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    input_ids[:, -1] = 2  # the end of sequence, where BART and T5 pool
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": LABELS}


def text_to_text() -> dict[str, Tensor]:
    return {**text(), "labels": text()["input_ids"]}


def ids() -> Tensor:
    return text()["input_ids"]


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.zeros(ROWS, 3, 32, 32), "labels": LABELS}


def sound() -> dict[str, Tensor]:
    return {"input_values": torch.zeros(ROWS, 400), "labels": LABELS}


def vectors() -> Tensor:
    return torch.zeros(ROWS, 5)


# ----------------------------------------------------------------------------------------------------
# The labels
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A model, and its layers as prefixes of parameter names, words apart; the longest prefix wins."""

    name: str
    build: Callable[[], nn.Module]
    embeddings: str
    blocks: tuple[str, ...]
    head: str
    batch: Callable[[], Any] = text

    @property
    def labels(self) -> dict[str, list[str]]:
        layers = {"embeddings": self.embeddings.split()}
        layers |= {f"block.{i}": block.split() for i, block in enumerate(self.blocks)}
        layers["head"] = self.head.split()
        return {layer: prefixes for layer, prefixes in layers.items() if prefixes}


def repeat(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}.{i}" for i in range(count))


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 50,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENCODER_DECODER = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 50,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "num_labels": CLASSES,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
WAV2VEC2 = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8],
    "conv_stride": [4, 4],
    "conv_kernel": [8, 8],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "num_labels": CLASSES,
}


def classifier(family: str, **settings: Any) -> Callable[[], nn.Module]:
    """A sequence classifier of a family that takes the common names of settings."""
    return model(f"{family}ForSequenceClassification", f"{family}Config", **{**SMALL, **settings})


def model(kind: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tr, kind)(getattr(tr, config)(**settings))


def roberta_like(family: str) -> Case:
    """XLM-RoBERTa and CamemBERT register the classifier before the backbone."""
    return Case(
        family,
        classifier(family, pad_token_id=1),
        "roberta.embeddings",
        repeat("roberta.encoder.layer", 3),
        "classifier",
    )


def llama_like(family: str, final_norm: str = "model.norm", **settings: Any) -> Case:
    build = classifier(family, **settings)
    return Case(family, build, "model.embed_tokens", repeat("model.layers", 3), f"{final_norm} score")


CASES = [
    Case("Bert", classifier("Bert"), "bert.embeddings", repeat("bert.encoder.layer", 3), "bert.pooler classifier"),
    roberta_like("Roberta"),
    roberta_like("XLMRoberta"),
    roberta_like("Camembert"),
    Case(
        "DistilBert",
        model(
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            vocab_size=VOCABULARY,
            dim=16,
            n_layers=3,
            n_heads=2,
            hidden_dim=24,
            num_labels=CLASSES,
        ),
        "distilbert.embeddings",
        repeat("distilbert.transformer.layer", 3),
        "pre_classifier classifier",
    ),
    Case(  # one shared block, and a projection of the embeddings inside the encoder
        "Albert",
        classifier("Albert", embedding_size=8),
        "albert.embeddings albert.encoder.embedding_hidden_mapping_in",
        ("albert.encoder.albert_layer_groups.0.albert_layers.0",),
        "albert.pooler classifier",
    ),
    Case(
        "Electra",
        classifier("Electra", embedding_size=8),
        "electra.embeddings electra.embeddings_project",
        repeat("electra.encoder.layer", 3),
        "classifier",
    ),
    Case(  # relative embeddings, their norm, and a convolution after the first block are registered after the blocks
        "DebertaV2",
        classifier(
            "DebertaV2",
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            norm_rel_ebd="layer_norm",
            conv_kernel_size=3,
        ),
        "deberta.embeddings deberta.encoder.rel_embeddings deberta.encoder.LayerNorm",
        ("deberta.encoder.layer.0 deberta.encoder.conv", "deberta.encoder.layer.1", "deberta.encoder.layer.2"),
        "pooler classifier",
    ),
    Case(
        "ModernBert",
        classifier("ModernBert", cls_token_id=1, sep_token_id=2),
        "model.embeddings",
        repeat("model.layers", 3),
        "model.final_norm head classifier",
    ),
    Case(  # a bias of the attention that all blocks share
        "MPNet",
        classifier("MPNet", pad_token_id=1),
        "mpnet.embeddings mpnet.encoder.relative_attention_bias",
        repeat("mpnet.encoder.layer", 3),
        "classifier",
    ),
    Case(
        "XLNet",
        model(
            "XLNetForSequenceClassification",
            "XLNetConfig",
            vocab_size=VOCABULARY,
            d_model=16,
            n_layer=3,
            n_head=2,
            d_inner=24,
            num_labels=CLASSES,
        ),
        "transformer.mask_emb transformer.word_embedding",
        repeat("transformer.layer", 3),
        "sequence_summary logits_proj",
    ),
    Case(  # most of a block is a list of short FFNs, which are no blocks
        "MobileBert",
        classifier("MobileBert", embedding_size=16, intra_bottleneck_size=8, true_hidden_size=8),
        "mobilebert.embeddings",
        repeat("mobilebert.encoder.layer", 3),
        "mobilebert.pooler classifier",
    ),
    Case(  # stages without modules of their own: a list of lists
        "Funnel",
        model(
            "FunnelForSequenceClassification",
            "FunnelConfig",
            vocab_size=VOCABULARY,
            block_sizes=[2, 1],
            d_model=16,
            n_head=2,
            d_head=8,
            d_inner=24,
            num_labels=CLASSES,
        ),
        "funnel.embeddings",
        ("funnel.encoder.blocks.0.0", "funnel.encoder.blocks.0.1", "funnel.encoder.blocks.1.0"),
        "classifier",
    ),
    Case(  # its blocks are called without hooks: the order of registration decides
        "SqueezeBert",
        classifier(
            "SqueezeBert",
            embedding_size=16,
            q_groups=1,
            k_groups=1,
            v_groups=1,
            post_attention_groups=1,
            intermediate_groups=1,
            output_groups=1,
        ),
        "transformer.embeddings",
        repeat("transformer.encoder.layers", 3),
        "transformer.pooler classifier",
    ),
    Case(
        "GPT2",
        model(
            "GPT2ForSequenceClassification",
            "GPT2Config",
            vocab_size=VOCABULARY,
            n_embd=16,
            n_layer=3,
            n_head=2,
            num_labels=CLASSES,
            pad_token_id=0,
        ),
        "transformer.wte transformer.wpe",
        repeat("transformer.h", 3),
        "transformer.ln_f score",
    ),
    Case(  # the output's weights are the input's
        "GPT2LMHead",
        model("GPT2LMHeadModel", "GPT2Config", vocab_size=VOCABULARY, n_embd=16, n_layer=3, n_head=2),
        "transformer.wte transformer.wpe",
        repeat("transformer.h", 3),
        "transformer.ln_f",
        text_to_text,
    ),
    llama_like("Llama", num_key_value_heads=2),
    llama_like("Qwen2", num_key_value_heads=2),
    llama_like("Qwen3", num_key_value_heads=2, head_dim=8),
    llama_like("Mistral", num_key_value_heads=2),
    llama_like("Gemma", num_key_value_heads=2, head_dim=8),
    llama_like("Mixtral", num_key_value_heads=2),
    llama_like("Phi", final_norm="model.final_layernorm"),
    Case(
        "GPTNeoX",
        classifier("GPTNeoX"),
        "gpt_neox.embed_in",
        repeat("gpt_neox.layers", 3),
        "gpt_neox.final_layer_norm score",
    ),
    Case(  # the final norm is registered before the blocks
        "OPT",
        classifier("OPT", ffn_dim=24, word_embed_proj_dim=16),
        "model.decoder.embed_tokens model.decoder.embed_positions",
        repeat("model.decoder.layers", 3),
        "model.decoder.final_layer_norm score",
    ),
    Case(
        "Bloom",
        classifier("Bloom", n_layer=3, n_head=2),
        "transformer.word_embeddings transformer.word_embeddings_layernorm",
        repeat("transformer.h", 3),
        "transformer.ln_f score",
    ),
    Case(
        "T5",
        model("T5ForSequenceClassification", "T5Config", **T5),
        "transformer.shared",
        (
            "transformer.encoder.block.0",
            "transformer.encoder.block.1 transformer.encoder.final_layer_norm",
            "transformer.decoder.block.0",
            "transformer.decoder.block.1",
        ),
        "transformer.decoder.final_layer_norm classification_head",
    ),
    Case(
        "T5Generation",
        model("T5ForConditionalGeneration", "T5Config", **T5, tie_word_embeddings=True),
        "shared",
        ("encoder.block.0", "encoder.block.1 encoder.final_layer_norm", "decoder.block.0", "decoder.block.1"),
        "decoder.final_layer_norm",
        text_to_text,
    ),
    Case(  # the norms of the embeddings are registered after the blocks, the decoder's after the encoder
        "Bart",
        model("BartForSequenceClassification", "BartConfig", **ENCODER_DECODER),
        "model.shared model.encoder.embed_positions model.encoder.layernorm_embedding "
        "model.decoder.embed_positions model.decoder.layernorm_embedding",
        (*repeat("model.encoder.layers", 2), *repeat("model.decoder.layers", 2)),
        "classification_head",
    ),
    Case(  # experts in a dictionary, in every second block
        "NllbMoe",
        model(
            "NllbMoeForConditionalGeneration",
            "NllbMoeConfig",
            **ENCODER_DECODER,
            num_experts=4,
            encoder_sparse_step=2,
            decoder_sparse_step=2,
        ),
        "model.shared",
        (
            "model.encoder.layers.0",
            "model.encoder.layers.1 model.encoder.layer_norm",
            "model.decoder.layers.0",
            "model.decoder.layers.1",
        ),
        "model.decoder.layer_norm",
        text_to_text,
    ),
    Case(
        "ViT",
        model(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=32,
            patch_size=8,
            num_labels=CLASSES,
        ),
        "vit.embeddings",
        repeat("vit.layers", 3),
        "vit.layernorm classifier",
        image,
    ),
    Case(
        "ResNet",
        model(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[2, 1],
            layer_type="basic",
            num_labels=CLASSES,
        ),
        "resnet.embedder",
        ("resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.0.layers.1", "resnet.encoder.stages.1"),
        "classifier",
        image,
    ),
    Case(  # what shrinks the image after a stage belongs to the block before it
        "Swin",
        model(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=32,
            patch_size=2,
            embed_dim=8,
            depths=[2, 2],
            num_heads=[2, 2],
            window_size=4,
            num_labels=CLASSES,
        ),
        "swin.embeddings",
        (
            "swin.encoder.layers.0.blocks.0",
            "swin.encoder.layers.0.blocks.1 swin.encoder.layers.0.downsample",
            *repeat("swin.encoder.layers.1.blocks", 2),
        ),
        "swin.layernorm classifier",
        image,
    ),
    Case(
        "ConvNext",
        model(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[8, 16],
            depths=[2, 2],
            num_stages=2,
            num_labels=CLASSES,
        ),
        "convnext.embeddings",
        (
            "convnext.encoder.stages.0.layers.0",
            "convnext.encoder.stages.0.layers.1 convnext.encoder.stages.1.downsampling_layer",
            *repeat("convnext.encoder.stages.1.layers", 2),
        ),
        "convnext.layernorm classifier",
        image,
    ),
    Case(  # a weight norm, which is no pair of matrices, and a mask that only training uses
        "Wav2Vec2",
        model("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", **WAV2VEC2),
        "wav2vec2.masked_spec_embed wav2vec2.feature_extractor wav2vec2.feature_projection "
        "wav2vec2.encoder.pos_conv_embed wav2vec2.encoder.layer_norm",
        repeat("wav2vec2.encoder.layers", 2),
        "projector classifier",
        sound,
    ),
    Case(  # the same module, `encoder.layer_norm`, now acts after the blocks
        "Wav2Vec2Stable",
        model(
            "Wav2Vec2ForSequenceClassification",
            "Wav2Vec2Config",
            **WAV2VEC2,
            do_stable_layer_norm=True,
            feat_extract_norm="layer",
        ),
        "wav2vec2.masked_spec_embed wav2vec2.feature_extractor wav2vec2.feature_projection "
        "wav2vec2.encoder.pos_conv_embed",
        repeat("wav2vec2.encoder.layers", 2),
        "wav2vec2.encoder.layer_norm projector classifier",
        sound,
    ),
    Case(
        "LSTM",
        LSTMClassifier,
        "embed",
        tuple(
            " ".join(
                f"lstm.{kind}_l{layer}{way}"
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                for way in ("", "_reverse")
            )
            for layer in range(2)
        ),
        "norm classifier",
        ids,
    ),
    Case(
        "TransformerEncoder",
        TransformerClassifier,
        "embed position",
        repeat("encoder.layers", 3),
        "encoder.norm classifier",
        ids,
    ),
    Case("MixtureOfExperts", MixtureOfExperts, "embed", repeat("layers", 2), "head", ids),
    Case("Reparametrised", Reparametrised, "embed convs", repeat("layers", 3), "head", ids),
    Case("MLP", mlp, "", ("0 1", "3"), "6", vectors),
]
CASE = {case.name: case for case in CASES}
