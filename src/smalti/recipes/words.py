"""Text tokenizers: byte-level BPE (Sennrich et al. 2015, arXiv:1508.07909) of a few hundred ids."""

from __future__ import annotations

from smalti.recipes.base import WordsRecipe


def tokenizer_text() -> WordsRecipe:
    """A text tokenizer of 512 ids, learned in seconds from captions, questions and text files.

    smalti train tokenizer-text --data.source captioned:folder:cats --vocab 512 --out runs/words

    A run of text and pictures trains such a one on its own texts unless it is given one: this is
    for several runs that shall have the same, and for more texts than those of one run.
    """
    return WordsRecipe()
