"""A CLIP of random weights, 16 and 12 wide, with a tokenizer trained on a few captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import build


def write_clip(folder: Path, captions: list[str], apart: bool = False) -> str:
    """Write it, ready for `from_pretrained`, or skip the test where `transformers` is missing; with
    `apart` as diffusers does, encoder and tokenizer each in a folder of its own."""
    transformers = pytest.importorskip("transformers", reason="the extra smalti[text] is missing")
    tokenizers = pytest.importorskip("tokenizers", reason="the extra smalti[text] is missing")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    marks = ["<pad>", "<unk>", "<start>", "<end>"]
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=40, special_tokens=marks, show_progress=False
    )
    words.train_from_iterator(captions, trainer)
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )
    config = transformers.CLIPTextConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=9,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    model = build(transformers.CLIPTextModelWithProjection, config)
    fast.save_pretrained(folder / "tokenizer" if apart else folder)
    model.save_pretrained(folder / "text_encoder" if apart else folder)
    return str(folder)
