"""Nodes of ComfyUI that draw with smalti's pipelines, here or on a server of theirs."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
