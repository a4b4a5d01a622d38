"""Which project a file is of, told by the names of its tensors alone."""

from pathlib import Path

import pytest
import torch

from builders import models, tokenizers
from official import official
from smalti import modules
from smalti.interop.kinds import KINDS, expect, kind_of
from smalti.interop.pickles import Checkpoint
from smalti.interop.projects import (
    hart,
    ibq,
    infinity,
    llamagen,
    mar,
    maskbit,
    maskgit_vqgan,
    meissonic,
    open_magvit2,
    rar,
    titok,
    var,
)
from smalti.modules import name_of

OURS = {
    "llamagen": llamagen.MODEL, "vqgan": llamagen.TOKENIZER, "rar": rar.MODEL,
    "maskgit_vqgan": maskgit_vqgan.TOKENIZER, "var": var.MODEL, "multiscale_vqvae": var.TOKENIZER,
    "kl_vae": mar.TOKENIZER, "mar": mar.MODEL, "infinity_vae": infinity.TOKENIZER,
    "ibq": ibq.MODEL, "ibq_tokenizer": ibq.TOKENIZER,
    "infinity": infinity.MODEL, "hart": hart.MODEL,
    "maskbit": maskbit.MODEL, "maskbit_vqgan": maskbit.TOKENIZER,
    "meissonic": meissonic.MODEL,
    "titok": titok.TOKENIZER, "titok_vae": titok.TOKENIZER, "titok_generator": titok.MODEL,
    "open_magvit2": open_magvit2.MODEL, "open_magvit2_lfq": open_magvit2.TOKENIZER,
}  # fmt: skip
UNPUBLISHED = {"maskgit", "fluid"}
"""Models of ours whose files no project publishes for torch."""
NO_FILE = {"rar-bits", "ibq-bits"}
"""Variants that files of a project cannot be: RAR's and IBQ's hold a table of codes."""
CASES = {name: case for name, case in (models() | tokenizers()).items() if name not in NO_FILE}


def registered(name: str) -> str:
    """Under which name the module of a case is registered."""
    _, config = CASES[name]
    entries = modules.TOKENIZERS | modules.MODELS
    return next(name for name, entry in entries.items() if type(config) is entry.config)


@pytest.mark.parametrize("name", [n for n in CASES if registered(n) in OURS.keys() | UNPUBLISHED])
def test_every_module_of_ours_is_of_one_kind(name):
    module, config = CASES[name]
    made = module(config)
    state, name = official(made), name_of(made)
    wanted = None if name in UNPUBLISHED else OURS[name]
    assert kind_of(state) is wanted
    if wanted is None:
        return
    expect(Checkpoint(Path("x.pt"), state, {}), wanted)
    for other in KINDS:
        if other.marks != wanted.marks:  # files of two projects may have the same names
            with pytest.raises(ValueError, match=f"^x.pt looks like {wanted.title}; try"):
                expect(Checkpoint(Path("x.pt"), state, {}), other)


@pytest.mark.parametrize(
    "names",
    [
        ["x"],
        ["encoder.down.0.block.0.conv1.weight", "encoder.mid.block_1.conv1.weight"],  # taming's
        ["quantize.embedding.weight", "decoder.up.0.block.0.conv1.weight"],
        [
            "encoder.down.0.block.0.conv1.weight",
            "decoder.up.0.block.0.conv1.weight",
            "quant_conv.weight",
            "post_quant_conv.weight",
            "quantize.embedding.weight",
        ],  # taming's, whole
    ],
)
def test_other_files_are_of_none(names):
    assert kind_of(dict.fromkeys(names)) is None
    for kind in KINDS:
        expect(Checkpoint(Path("x.pt"), {name: torch.ones(1) for name in names}, {}), kind)
