"""Recipes: functions that return everything about a training run, by name."""

from __future__ import annotations

from collections.abc import Callable

from smalti.recipes import fluid, llamagen, mar, maskgit, rar, text, var
from smalti.recipes.base import Recipe

RECIPES: dict[str, Callable[[], Recipe]] = {
    f.__name__: f
    for f in (
        fluid.emoji_fluid,
        fluid.emoji_fluid_t2i,
        fluid.fluid_150m,
        fluid.fluid_150m_raster,
        fluid.fluid_369m,
        fluid.fluid_665m,
        fluid.fluid_1b,
        fluid.fluid_3b,
        fluid.fluid_10b,
        llamagen.emoji_vqgan,
        llamagen.emoji_llamagen,
        llamagen.llamagen_vq16,
        llamagen.llamagen_vq8,
        llamagen.llamagen_b,
        llamagen.llamagen_l,
        llamagen.llamagen_xl,
        llamagen.llamagen_xxl,
        llamagen.llamagen_1b,
        llamagen.llamagen_3b,
        llamagen.llamagen_7b,
        mar.emoji_klvae,
        mar.emoji_mar,
        mar.kl16,
        mar.mar_b,
        mar.mar_l,
        mar.mar_h,
        maskgit.emoji_maskgit,
        maskgit.maskgit,
        rar.emoji_rar,
        rar.maskgit_vqgan,
        rar.rar_b,
        rar.rar_l,
        rar.rar_xl,
        rar.rar_xxl,
        var.emoji_msvqvae,
        var.emoji_var,
        var.var_vqvae,
        var.var_d16,
        var.var_d20,
        var.var_d24,
        var.var_d30,
        var.var_d36_512,
        text.shapes_vqgan,
        text.shapes_t2i,
        text.emoji_t2i,
        text.llamagen_t2i_stage1,
        text.llamagen_t2i_stage2,
    )
}
