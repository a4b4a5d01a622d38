"""Images without labels are one class; an image without a label among others is unconditional."""

import numpy as np
import pytest

from smalti.codes import Cond, TokenSpec
from smalti.data.code_batches import CodeBatches
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, write_cache


@pytest.mark.parametrize(("classes", "labels"), [([], [0, 0]), (["a", "b"], [-1, 1])])
def test_labels(tmp_path, classes, labels):
    given = [-1, 1] if classes else [-1, -1]
    rows = ((np.zeros((1, 4), int), label, "", False, str(i)) for i, label in enumerate(given))
    about = {"tokenizer_fingerprint": "", "source": "", "source_fingerprint": "", "transform": {}}
    spec = TokenSpec(((2, 2),), 8)
    encoding = Encoding(spec, views=1, classes=classes, **about)
    write_cache(tmp_path / "c.arrow", rows, encoding)
    batches = CodeBatches(TokenCache(tmp_path / "c.arrow"), [0, 1], 2, train=False)
    (batch,) = batches.evaluation(2)
    assert batch["labels"].tolist() == labels
    cond = Cond.of_labels(batch["labels"])
    assert cond.labels is not None and cond.drop is not None
    assert cond.drop.tolist() == [label < 0 for label in labels]
    assert cond.labels.tolist() == [max(label, 0) for label in labels]
