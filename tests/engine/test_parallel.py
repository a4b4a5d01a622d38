"""Drawing ahead: the same codes as drawing in turn, whatever the window, in no more passes."""

from dataclasses import replace

import pytest
import torch

from builders import build, causal_models, generate, random_codes, random_cond, stream
from smalti.codes import Known, TokenSpec
from smalti.engine.parallel import nearest
from smalti.sampling.filters import Filters
from smalti.sampling.guidance import Guidance
from smalti.sampling.noise import Noise
from smalti.sampling.orders import order

CASES = {
    name: case
    for name, case in causal_models().items()
    if case[1].spec.discrete and len(case[1].spec.grids) == 1
}
SCALED = (Guidance(3.0, "linear"), Filters(0.9, top_p=0.9))


@pytest.mark.parametrize("name", CASES)
def test_any_window_draws_the_codes_that_are_drawn_in_turn(name):
    model = build(*CASES[name])
    cond, noise = random_cond(model, 3), Noise.request(5, 3)
    in_turn = generate(model, cond, noise, *SCALED)
    for window in (2, 5, 1000):
        assert torch.equal(generate(model, cond, noise, *SCALED, window=window), in_turn), window
