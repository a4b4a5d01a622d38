"""BERT's layers against those of torch."""

import pytest
import torch
from torch import nn

from smalti.nn.bert import LN_EPS, Block

NAMES = {
    "self_attn.in_proj_": "wqkv.",
    "self_attn.out_proj.": "wo.",
    "linear1.": "feed_forward.w1.",
    "linear2.": "feed_forward.w2.",
}


@pytest.mark.parametrize("prenorm", [False, True])
def test_layers_are_those_of_torch(prenorm):
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        24, 4, 40, 0.0, "gelu", LN_EPS, batch_first=True, norm_first=prenorm
    )
    for weight in theirs.parameters():
        nn.init.normal_(weight, std=0.3)
    state = {}
    for name, tensor in theirs.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        state[name] = tensor
    ours = Block(24, 4, 40, 0.0, prenorm)
    ours.load_state_dict(state)
    x = torch.randn(3, 7, 24)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    block, x = Block(24, 4, 40, dropout=0.5), torch.randn(3, 7, 24)
    assert not torch.equal(block(x), block(x))
    assert torch.equal(block.eval()(x), block(x))
