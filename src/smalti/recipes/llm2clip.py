"""LLM2CLIP (Huang et al. 2024, arXiv:2411.04997), and a small one for two CPU cores: a language
model that writes texts, one of sentences that is made of it, and a tower for which that one reads.

Marks: [C] read in the released code, [M] remembered of the paper, to be checked before it is
quoted; all without a mark is ours.
"""

from __future__ import annotations

from smalti.models.language import LanguageConfig
from smalti.models.llm2clip import LLAMA, LLM2CLIPConfig, ReaderConfig, SentencesConfig
from smalti.models.towers import TowerConfig
from smalti.recipes.base import DataConfig, LanguageRecipe, SentencesRecipe, TowersRecipe
from smalti.recipes.towers import shapes_clip, small
from smalti.train.lora import LoraConfig
from smalti.train.optim import OptimConfig
from smalti.train.pairs import PairsConfig
from smalti.train.settings import TrainConfig


def llm2clip_sentences() -> SentencesRecipe:
    """Llama-3-8B as LLM2CLIP reads by it, 8.0 B parameters: mean of the words, each of which sees
    all.

    Updates of rank 16, 300 steps of warm-up, a rate of 2e-4, 64 pairs on each of 8 devices, cosines
    times 50 [C]. There it first learns hidden words of wikitext and of captions, by updates of the
    same rank [C], which is not known here; the pairs are long, short and raw captions of CC3M, and
    pairs of texts of E5 [C].

    torchrun --nproc-per-node 8 -m smalti train llm2clip_sentences --train.parallel fsdp \\
        --init Meta-Llama-3-8B-Instruct/ --data.source "parquet:cc3m?text=short&keywords=long" \\
        --out runs/llm2clip-sentences
    """
    return SentencesRecipe(
        vocab=LLAMA.vocab,
        data=DataConfig(source="parquet:captions", flip=False, holdout=0.001),
        model=LLAMA,
        length=512,
        lora=LoraConfig(rank=16, alpha=32.0),
        train=TrainConfig(
            steps=6000,
            batch=512,
            optim=OptimConfig(lr=2e-4, warmup=300, weight_decay=0.0),
            eval_every=1000,
            save_every=500,
            recompute=True,
        ),
    )


def llm2clip() -> TowersRecipe:
    """LLM2CLIP with a ViT-L/14 of 336 pixels and Llama-3-8B, 8.6 B parameters, of which 0.6 B are
    trained: the tower and the adapter.

    512 pairs on each of 8 devices, 20 epochs of CC3M and CC12M, a rate of 1e-5, weight decay 0.05
    [C]; there the rate also falls from layer to layer, by 0.85 [C], the tower was trained before by
    EVA02 and its features are 1280 [C], here it is new and they are 768. Features of texts, which
    never change, are computed once there [C], here in each step.

    torchrun --nproc-per-node 8 -m smalti train llm2clip \\
        --language runs/llm2clip-sentences/language --data.source parquet:captions \\
        --out runs/llm2clip
    """
    return TowersRecipe(
        vocab=LLAMA.vocab,
        data=DataConfig(source="parquet:captions", flip=False, crop="random", holdout=0.001),
        model=LLM2CLIPConfig(
            size=336,
            patch=14,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            length=512,
            vocab=LLAMA.vocab,
            features=768,
            vision=TowerConfig(24, 16, 1024, 4096, "sigmoid", 1e-5),
        ),
        objective=PairsConfig(loss="softmax"),
        train=TrainConfig(
            steps=70_000,
            batch=4096,
            optim=OptimConfig(lr=1e-5, schedule="cosine", warmup=2000, weight_decay=0.05),
            eval_every=5000,
            preview_every=5000,
            save_every=2500,
            recompute=True,
        ),
    )


WRITER = LanguageConfig(512, 4, 4, 128, 384)
"""A decoder as Llama's of a million parameters. How many ids it knows its text tokenizer
decides."""


def shapes_language() -> LanguageRecipe:
    """A small language model that writes what the documents of shapes say, without their pictures.

    smalti train shapes_language --out runs/language
    """
    return LanguageRecipe(
        data=DataConfig(source="shapes-all:20000", flip=False, holdout=0.02),
        row=128,
        model=WRITER,
        train=TrainConfig(
            steps=400,
            batch=12,
            optim=OptimConfig(lr=3e-3, schedule="cosine", final_lr=0.1, warmup=40),
            eval_every=80,
            save_every=200,
        ),
    )


def shapes_sentences() -> SentencesRecipe:
    """The small language model, fine-tuned to tell captions of shapes apart.

    smalti train shapes_language --out runs/language
    smalti train shapes_sentences --init runs/language/language --out runs/sentences
    """
    return SentencesRecipe(
        model=WRITER,
        length=24,
        train=TrainConfig(
            steps=150,
            batch=32,
            optim=OptimConfig(lr=2e-3, schedule="cosine", warmup=15, weight_decay=0.0),
            eval_every=30,
            save_every=50,
        ),
    )


def shapes_llm2clip() -> TowersRecipe:
    """A small tower that sees shapes, whose captions the frozen language model of
    `shapes_sentences` reads.

    smalti train shapes_llm2clip --language runs/sentences/language --out runs/llm2clip
    smalti eval runs/llm2clip/towers --metrics zero_shot retrieval
    """
    recipe, reader = shapes_clip(), ReaderConfig(SentencesConfig(WRITER), layers=2)
    return TowersRecipe(
        data=recipe.data,
        model=LLM2CLIPConfig(
            size=32, patch=4, length=24, features=96, vision=small(3), text=reader
        ),
        objective=recipe.objective,
        train=recipe.train,
    )
