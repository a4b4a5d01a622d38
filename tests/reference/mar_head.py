"""The diffusion head against outputs of the official code: the part of a golden folder of MAR that
needs no other part of the model."""

from __future__ import annotations

from typing import Any

import torch
from golden import Vectors, close
from torch import Tensor

from official_settings import MAR_DEFAULTS as DEFAULTS
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


def golden_head(weights: dict[str, Tensor], config: dict[str, Any]) -> DiffusionHead:
    """The head of a golden folder."""
    made, prefix = DEFAULTS | config["constructor"], "diffloss.net."
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
def check_head(head: DiffusionHead, config: dict[str, Any], io: Vectors) -> None:
    """Compare a head with every golden tensor that is the head's own."""
    if "head_x" in io:
        check_network(head, io)
    io.check("train_alphas_cumprod", torch.tensor(cosine(1000).kept), 1e-7)
    if "train_t" in io and "decoder_z" in io:
        repeat = (DEFAULTS | config["constructor"])["diffusion_batch_mul"]
        tiled = [io[n].flatten(0, 1).repeat(repeat, 1) for n in ("decoder_z", "patchified")]
        parts = head.errors(*tiled, io["train_t"], io["train_noise"])
        io.check("train_mse_per_token", parts["mse"])
        io.check("train_vb_per_token", parts["vb"])
    for name, run in config.get("runs", {}).items():
        check_run(head, name, run, io)


def check_network(head: DiffusionHead, io: Vectors) -> None:
    x, t, z = io["head_x"], io["head_t"], io["head_z"]
    io.check("head_t_embed", head.time_embed(t))
    io.check("head_out", head.predict(x, t, z))
    half = len(x) // 2
    noise, variance = head.predict(x[:half].repeat(2, 1), t[:half].repeat(2), z).chunk(2, -1)
    for scale in io.runs(r"head_out_cfg([\d.]+)"):
        guided = ClassifierFree(float(scale)).merge(noise)
        io.check(f"head_out_cfg{scale}", torch.cat((torch.cat((guided, guided)), variance), -1))


def check_run(head: DiffusionHead, name: str, run: dict[str, Any], io: Vectors) -> None:
    """Compare the schedule of a sampling run, and what it draws with the stored noise."""
    schedule = respaced(1000, run["num_sampling_steps"])
    io.check(f"{name}_timestep_map", torch.tensor(schedule.timesteps))
    for official, ours in {
        "betas": schedule.betas,
        "posterior_log_variance_clipped": schedule.log_variance,
        "posterior_mean_coef1": schedule.mean_clean,
        "posterior_mean_coef2": schedule.mean_x,
    }.items():
        io.check(f"{name}_{official}", torch.tensor(ours), 1e-6)
    for i in io.runs(rf"{name}_noise_init_(\d+)"):
        ours, rounding = solved(head, name, i, run, io)
        close(ours, io[f"{name}_sampled_{i}"][: len(ours)], 1, rounding)


def solved(
    head: DiffusionHead, name: str, i: int | str, run: dict[str, Any], io: Vectors
) -> tuple[Tensor, float]:
    """What a run draws at step i, (R, C), and how far rounding may move it.

    Where a schedule begins with almost pure noise, random heads diverge. So the rounding is
    measured: by a condition that is one part in a million larger.
    """
    way = path(Solver(steps=run["num_sampling_steps"]), "diffusion")
    start, drawn = io[f"{name}_noise_init_{i}"], io[f"{name}_noise_steps_{i}"]
    rows, scale = len(start), io[f"{name}_cfg_{i}"].item()
    guide = Unguided() if run["cfg"] == 1 else ClassifierFree(scale)
    noise = torch.cat((start[None], drawn[:, :rows]))
    z = io[f"{name}_z_{i}"].unflatten(0, (-1, rows))
    ours, moved = (
        head.solve(c, guide, noise, way, run["temperature"]) for c in (z, z * (1 + 1e-6))
    )
    least = 2e-5 * ours.abs().max().item()
    return ours, max(least, 10 * (moved - ours).abs().max().item())
