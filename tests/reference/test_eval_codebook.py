"""Usage, entropy and perplexity, and the variants of other projects.

Counts and shares are exact, entropies 1e-10. What upstream computes in float32, percentages
included, is compared as float32, in whatever dtype it is stored.
"""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Vectors, folders, load

from smalti.codes import TokenSpec
from smalti.eval import codebook
from smalti.eval.codebook import bits, entropy, histogram, histograms, perplexity, usage


@pytest.mark.parametrize("folder", folders("eval_codebook"))
def test_eval_codebook(folder: Path):
    config, _, io = load(folder)
    vocab = config["K"]
    if "indices" in io:
        check_counts(io, vocab)
    if "ms_indices" in io:
        check_scales(io, vocab, config)
    if "depth_indices" in io:
        check_depths(io, vocab)
    io.done()


def check_counts(io: Vectors, vocab: int) -> None:
    codes = io["indices"]
    counts = histogram(codes, vocab)
    io.check("counts", counts)
    io.numbers("usage", usage(counts), 1e-15)
    io.numbers("entropy_nats", entropy(counts))
    io.numbers("perplexity", perplexity(counts))
    io.numbers("perplexity_normalised", perplexity(counts) / vocab)
    io.numbers("perplexity_taming", codebook.perplexity_taming(counts), 1e-5)
    with_floor = codebook.entropy_1d_tokenizer(counts)
    io.numbers("entropy_bits_1dtokenizer", with_floor)
    io.numbers("usage_unitok_percent", 100 * codebook.usage_unitok(counts), 1e-6)
    # of log2(p + 1e-8) * p, the 1e-8 can change each code's part by that over ln 2
    assert abs(bits(entropy(counts)) - with_floor) <= vocab * 1e-8 / math.log(2) + 1e-12
    halves = [histogram(half, vocab) for half in codes.tensor_split([len(codes) // 2])]
    for measure in (usage, perplexity):
        io.numbers(f"{measure.__name__}_mean_of_halves", sum(measure(half) for half in halves) / 2)


def check_scales(io: Vectors, vocab: int, config: dict[str, Any]) -> None:
    codes, sizes = io["ms_indices"], config["scales"]
    counts = histograms(codes, TokenSpec(tuple((n, n) for n in sizes), vocab))[:, 0]
    io.numbers("ms_usage", [usage(c) for c in counts], 1e-15)
    io.numbers("ms_perplexity", [perplexity(c) for c in counts])
    io.numbers("ms_usage_all", usage(counts.sum(0)), 1e-15)
    io.numbers("ms_perplexity_all", perplexity(counts.sum(0)))

    # the number of processes is said in words only
    world = re.search(r"world_size (\d+)", config["io_tensors"]["ms_usage_var_percent"]["meaning"])
    assert world
    margin = codebook.margin_var(vocab, len(codes) * sizes[-1] ** 2, int(world[1]))
    io.numbers("var_margin", margin)
    percents = [100 * codebook.usage_var(c, margin) for c in counts]
    io.numbers("ms_usage_var_percent", percents, 1e-6)
    average = torch.zeros(vocab)
    for record, step in enumerate(io.get("var_ema_steps", [])):
        average = codebook.hits_var(average, histogram(step, vocab), record)
    io.check("var_ema_hits", average, 1e-6)
    io.numbers("var_ema_usage_percent", 100 * codebook.usage_var(average, margin), 1e-6)


def check_depths(io: Vectors, vocab: int) -> None:
    codes = io["depth_indices"]
    counts = histograms(codes, TokenSpec(((1, codes.shape[1]),), vocab, codes.shape[2]))[0]
    io.numbers("depth_usage", [usage(c) for c in counts], 1e-15)
    io.numbers("depth_perplexity", [perplexity(c) for c in counts])
    io.numbers("depth_usage_shared", usage(counts.sum(0)), 1e-15)
    io.numbers("depth_perplexity_shared", perplexity(counts.sum(0)))
