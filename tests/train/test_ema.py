import pytest
import torch
from torch import nn

from smalti.train.ema import Ema


def test_the_average_follows_its_formula():
    model = nn.Linear(1, 1, bias=False)
    values = [1.0, 5.0, -2.0, 3.0]
    with torch.no_grad():
        model.weight.fill_(values[0])
    ema = Ema(model, decay=0.15)
    expected = values[0]
    for step, value in enumerate(values[1:]):
        with torch.no_grad():
            model.weight.fill_(value)
        ema.update(step)
        decay = min(0.15, (1 + step) / (10 + step))  # 0.1, then 0.15 and 0.15
        expected = decay * expected + (1 - decay) * value
    assert ema.state_dict()["weight"].item() == pytest.approx(expected)


def test_applied_lends_the_average_and_restores_the_weights():
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    ema = Ema(model, 0.9)
    average = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    trained = model.weight.detach().clone()
    with pytest.raises(KeyError), ema.applied():
        assert torch.equal(model.weight, average)
        raise KeyError
    assert torch.equal(model.weight, trained)
    assert list(ema.state_dict()) == ["weight"]


def test_the_average_is_float32_and_round_trips():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    ema, other = Ema(model, 0.5), Ema(nn.Linear(3, 2), 0.5)
    ema.update(100)
    assert ema.state_dict()["weight"].dtype == torch.float32
    other.load_state_dict(ema.state_dict())
    for name, value in ema.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {decay}"):
        Ema(nn.Linear(1, 1), decay)
