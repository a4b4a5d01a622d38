"""Training steps of the classics: each case can be taken, and its operations are those on paper."""

from pathlib import Path

import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import bit_steps
    import classic_steps

SMALL = [name for name in classic_steps.GENERATORS if name.endswith("small")]


@pytest.mark.parametrize("name", SMALL)
def test_a_step_of_a_generator_is_counted(name):
    config, goal, batch = classic_steps.GENERATORS[name]()
    found = bit_steps.Steps(config, goal, batch).counted()
    rows, dim = config.spec.positions + getattr(config, "text_length", 0), config.dim
    layers = config.layers * rows * (12 * dim**2 + 2 * rows * dim)
    paper = 3 * 2 * batch * (layers + config.spec.positions * dim * config.vocab)
    assert 0.9 < found / paper < (1.6 if name.startswith("parti") else 1.2)
    yardstick = bit_steps.yardstick(config)
    assert yardstick.spec.positions == config.spec.positions and yardstick.dim == dim


@pytest.mark.parametrize("name", classic_steps.TOKENIZERS)
def test_a_step_of_a_tokenizer_is_counted(name):
    step = classic_steps.Coding(classic_steps.TOKENIZERS[name]())
    assert step.counted() > 1e9
    assert not any(p.grad is not None and p.grad.isnan().any() for p in step.objective.parameters())
