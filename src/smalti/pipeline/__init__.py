"""A folder that draws and edits images."""

from smalti.pipeline.editing import edit
from smalti.pipeline.pipeline import Partial, Pipeline

__all__ = ["Partial", "Pipeline", "edit"]
