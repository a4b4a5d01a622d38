"""The diffusion head against outputs of the official code: the part of a golden folder of MAR that
needs no other part of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from smalti.heads.diffusion import DiffusionConfig, DiffusionHead
from smalti.sampling.guidance import ClassifierFree, Unguided
from smalti.sampling.solvers import Solver, cosine, path, respaced

NAMES = {
    "time_embed.mlp.0": "time_embed.w1",
    "time_embed.mlp.2": "time_embed.w2",
    "res_blocks": "blocks",
    "in_ln": "norm",
    "mlp.0": "w1",
    "mlp.2": "w2",
    "adaLN_modulation.1": "adaln",
    "final_layer.linear": "out",
    "final_layer.": "",
}
"""Parts of official names, in this order, and ours."""


def close(ours: Tensor, golden: Tensor, rtol: float = 0.0, atol: float = 2e-5) -> None:
    torch.testing.assert_close(ours, golden, rtol=rtol, atol=atol * max(1, golden.abs().max()))


def golden_head(weights: dict[str, Tensor], config: dict[str, Any]) -> DiffusionHead:
    """The head of a golden folder."""
    made, prefix = config["constructor"], "diffloss.net."
    head = DiffusionHead(
        made["decoder_embed_dim"],
        made["vae_embed_dim"] * made["patch_size"] ** 2,
        DiffusionConfig(
            depth=made["diffloss_d"],
            width=made["diffloss_w"],
            repeat=made["diffusion_batch_mul"],
        ),
    )
    state = {}
    for name, tensor in weights.items():
        if name.startswith(prefix):
            short = name.removeprefix(prefix)
            for official, ours in NAMES.items():
                short = short.replace(official, ours)
            state[short] = tensor
    head.load_state_dict(state)
    return head.eval()


@torch.no_grad()
def check_head(head: DiffusionHead, config: dict[str, Any], io: dict[str, Tensor]) -> None:
    """Compare a head with every golden tensor that is the head's own."""
    x, t, z = io["head_x"], io["head_t"], io["head_z"]
    close(head.time_embed(t), io["head_t_embed"])
    close(head.predict(x, t, z), io["head_out"])
    half = len(x) // 2
    both = head.predict(x[:half].repeat(2, 1), t[:half].repeat(2), z)
    noise, variance = both.chunk(2, -1)
    guided = ClassifierFree(3.0).merge(noise)
    close(torch.cat((torch.cat((guided, guided)), variance), -1), io["head_out_cfg3"])

    close(torch.tensor(cosine(1000).kept), io["train_alphas_cumprod"], atol=1e-7)
    repeat = config["constructor"]["diffusion_batch_mul"]
    tiled = [io[n].flatten(0, 1).repeat(repeat, 1) for n in ("decoder_z", "patchified")]
    parts = head.errors(*tiled, io["train_t"], io["train_noise"])
    close(parts["mse"], io["train_mse_per_token"])
    close(parts["vb"], io["train_vb_per_token"], rtol=1e-5)
    for name, run in config["runs"].items():
        check_run(head, name, run, io)


def check_run(head: DiffusionHead, name: str, run: dict[str, Any], io: dict[str, Tensor]) -> None:
    """Compare the schedule of a sampling run, and what it draws with the stored noise."""
    steps = run["num_sampling_steps"]
    schedule = respaced(1000, steps)
    assert list(schedule.timesteps) == io[f"{name}_timestep_map"].tolist()
    for official, ours in {
        "betas": schedule.betas,
        "posterior_log_variance_clipped": schedule.log_variance,
        "posterior_mean_coef1": schedule.mean_clean,
        "posterior_mean_coef2": schedule.mean_x,
    }.items():
        close(torch.tensor(ours), io[f"{name}_{official}"], rtol=1e-6, atol=0)
    way = path(Solver(steps=steps), "diffusion")
    for i in range(run["num_iter"]):
        start, drawn = io[f"{name}_noise_init_{i}"], io[f"{name}_noise_steps_{i}"]
        rows, scale = len(start), io[f"{name}_cfg_{i}"].item()
        guide = Unguided() if run["cfg"] == 1 else ClassifierFree(scale)
        noise = torch.cat((start[None], drawn[:, :rows]))
        z = io[f"{name}_z_{i}"].unflatten(0, (-1, rows))
        ours = head.solve(z, guide, noise, way, run["temperature"])
        golden = io[f"{name}_sampled_{i}"][:rows]
        # where the schedule begins with almost pure noise, a random head's codes are huge
        far = schedule.kept[-1] < 1e-6
        close(ours, golden, rtol=1e-4 if far else 0, atol=0 if far else 2e-5)
