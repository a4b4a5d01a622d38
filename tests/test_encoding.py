"""Features of captions, as a token cache keeps them."""

import numpy as np
import torch

from smalti.encoding import features


class Counting:
    """As many tokens as a caption has letters, and an end mark; features are the token's place."""

    def tokenize(self, texts):
        lengths = torch.tensor([len(t) + 1 for t in texts])
        return torch.where(torch.arange(4) >= 4 - lengths[:, None], torch.arange(4), -1)

    def __call__(self, tokens):
        mask = tokens >= 0
        return torch.stack([tokens, tokens / 3], -1) * mask[..., None], mask


def test_features_without_padding_and_none_of_an_empty_caption():
    found = features(Counting(), ["ab", "", "a"], "cpu")
    assert [f.shape for f in found] == [(3, 2), (0, 2), (2, 2)]
    assert all(f.dtype == np.float16 for f in found)
    assert found[0][:, 0].tolist() == [1, 2, 3] and found[2][:, 0].tolist() == [2, 3]
    assert found[0][:, 1].tolist() == np.array([1 / 3, 2 / 3, 1], np.float16).tolist()
