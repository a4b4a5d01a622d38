"""Usage, entropy and perplexity, and the variants of other projects.

Tolerances: counts and shares are exact, entropies 1e-10, float32 variants 1e-5.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load
from torch import Tensor

from smalti.codes import TokenSpec
from smalti.eval import codebook
from smalti.eval.codebook import bits, entropy, histogram, histograms, perplexity, usage


def same(ours: float | list[float], golden: Tensor, rel: float = 1e-10) -> None:
    assert golden.tolist() == pytest.approx(ours if isinstance(ours, list) else [ours], rel=rel)


@pytest.mark.parametrize("folder", folders("eval_codebook"))
def test_eval_codebook(folder: Path):
    config, _, io = load(folder)
    vocab = config["K"]
    check_counts(io, vocab)
    check_scales(io, vocab, config)
    check_depths(io, vocab)
    io.done()


def check_counts(io: Vectors, vocab: int) -> None:
    codes = io["indices"]
    counts = histogram(codes, vocab)
    assert torch.equal(counts, io["counts"])
    same(usage(counts), io["usage"], 0)
    same(entropy(counts), io["entropy_nats"])
    same(perplexity(counts), io["perplexity"])
    same(perplexity(counts) / vocab, io["perplexity_normalised"])
    same(codebook.perplexity_taming(counts), io["perplexity_taming"], 1e-5)
    same(codebook.entropy_1d_tokenizer(counts), io["entropy_bits_1dtokenizer"])
    same(100 * codebook.usage_unitok(counts), io["usage_unitok_percent"])
    assert bits(entropy(counts)) == pytest.approx(codebook.entropy_1d_tokenizer(counts), rel=1e-5)
    halves = [histogram(half, vocab) for half in codes.chunk(2)]
    for measure in (usage, perplexity):
        wrong = sum(measure(half) for half in halves) / 2
        same(wrong, io[f"{measure.__name__}_mean_of_halves"])
        assert wrong <= measure(counts)


def check_scales(io: Vectors, vocab: int, config: dict[str, Any]) -> None:
    codes, sizes = io["ms_indices"], config["scales"]
    counts = histograms(codes, TokenSpec(tuple((n, n) for n in sizes), vocab))[:, 0]
    same([usage(c) for c in counts], io["ms_usage"], 0)
    same([perplexity(c) for c in counts], io["ms_perplexity"])
    same(usage(counts.sum(0)), io["ms_usage_all"], 0)
    same(perplexity(counts.sum(0)), io["ms_perplexity_all"])

    meaning = config["io_tensors"]["ms_usage_var_percent"]["meaning"]
    (world,) = re.findall(r"world_size (\d+)", meaning)
    margin = codebook.margin_var(vocab, len(codes) * sizes[-1] ** 2, int(world))
    same(margin, io["var_margin"])
    same([100 * codebook.usage_var(c, margin) for c in counts], io["ms_usage_var_percent"])
    average = torch.zeros(vocab)
    for record, step in enumerate(io["var_ema_steps"]):
        average = codebook.hits_var(average, histogram(step, vocab), record)
    torch.testing.assert_close(average, io["var_ema_hits"], rtol=1e-6, atol=0)
    same(100 * codebook.usage_var(average, margin), io["var_ema_usage_percent"])


def check_depths(io: Vectors, vocab: int) -> None:
    codes = io["depth_indices"]
    counts = histograms(codes, TokenSpec(((1, codes.shape[1]),), vocab, codes.shape[2]))[0]
    same([usage(c) for c in counts], io["depth_usage"], 0)
    same([perplexity(c) for c in counts], io["depth_perplexity"])
    same(usage(counts.sum(0)), io["depth_usage_shared"], 0)
    same(perplexity(counts.sum(0)), io["depth_perplexity_shared"])
