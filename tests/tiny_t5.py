"""A T5 of random weights, 16 wide, with a tokenizer trained on a few captions."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders import build


def write_t5(folder: Path, captions: list[str]) -> str:
    """Write it, ready for `from_pretrained`, or skip the test where `transformers` is missing."""
    transformers = pytest.importorskip("transformers", reason="the extra smalti[text] is missing")
    tokenizers = pytest.importorskip("tokenizers", reason="the extra smalti[text] is missing")
    words = tokenizers.Tokenizer(tokenizers.models.Unigram())
    words.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    words.train_from_iterator(captions * 20, trainer)
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    build(transformers.T5EncoderModel, config).save_pretrained(folder)
    return str(folder)
