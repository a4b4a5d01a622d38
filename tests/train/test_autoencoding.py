"""An autoencoder learns as a whole, or a part of it while the others stay as they are."""

from dataclasses import replace

import pytest
import torch

from builders import build
from smalti.tokenizers.dcae import DCAE, tiny
from smalti.train.autoencoding import AutoencodingConfig


def learned(learns, gan_weight=0.0):
    """A tokenizer before and after a step, and the losses."""
    before, model = build(DCAE, tiny()), build(DCAE, tiny())
    config = AutoencodingConfig(
        learns=learns, gan_weight=gan_weight, gan_layers=1, perceptual="none"
    )
    objective = config.objective(model, 0, 10, begun=True).train()
    batch = {"images": torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)}
    losses = objective(batch, 0)
    sum(losses.totals.values()).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    return before, model.eval(), losses


def moved(before, after):
    old, new = before.state_dict(), after.state_dict()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_all_of_it_learns_at_first():
    before, after, losses = learned("whole")
    names = {name for name, _ in after.named_parameters()}
    assert names <= moved(before, after) and losses.totals.keys() == {"model"}


def test_the_middle_is_what_is_next_to_the_latent():
    before, after, _ = learned("middle")
    begins = {".".join(name.split(".")[:3]) for name in moved(before, after)}
    assert {name for name in begins if "blocks" in name} == {
        "encoder.down_blocks.2",
        "decoder.up_blocks.2",
    }
    assert {"encoder.conv_out.weight", "decoder.conv_in.weight"} <= moved(before, after)
    assert "decoder.conv_out.conv.weight" not in moved(before, after)


@torch.no_grad()
def test_the_head_moves_no_latent():
    with torch.enable_grad():
        before, after, losses = learned("head", gan_weight=0.5)
    assert losses.totals.keys() == {"model", "discriminator"}
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(before.encode(images), after.encode(images))
    assert (before(images).images - after(images).images).abs().max() > 1e-3
    assert all(name.startswith("decoder.") for name in moved(before, after))


def test_norms_over_batches_stay_where_nothing_learns():
    before, after, _ = learned("middle")
    assert not [name for name in moved(before, after) if "running" in name]
    before, after, _ = learned("head")
    assert [name for name in moved(before, after) if "running" in name]


def test_an_adversary_is_weighed_by_a_layer_that_learns():
    config = AutoencodingConfig(learns="middle", gan_weight=0.5, gan_layers=1, perceptual="none")
    with pytest.raises(ValueError, match="leaves as it is: give --objective.no-gan-adaptive"):
        config.objective(build(DCAE, tiny()), 0, 10, begun=True)
    fixed = replace(config, gan_adaptive=False).objective(build(DCAE, tiny()), 0, 10, begun=True)
    assert fixed.discriminator is not None


def test_a_part_is_of_a_tokenizer_that_is_trained():
    with pytest.raises(ValueError, match="learns head is of a tokenizer that is trained: give --i"):
        AutoencodingConfig(learns="head", perceptual="none").objective(build(DCAE, tiny()), 0, 10)
