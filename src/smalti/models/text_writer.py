"""A language model that learns to write texts, for training alone.

B rows, L positions, V ids, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from smalti.models.language import Language
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import Term, behind
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Rows


class TextWriter(nn.Module):
    """Rows of ids (B, L) to the ids that come next."""

    NO_DECAY = ("*tok_embeddings.*",)

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def where(self, rows: Rows, noise: Noise) -> dict[str, Tensor]:
        """Where its terms are, (B, L) bool."""
        return {"text": rows.targets != IGNORED}

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of each id that is learned, given all before it, (B, L)."""
        length = rows.ids.shape[1]
        place = place_of(self.language, rows, 0, length)
        h = self.language(self.language.embed(rows.ids), place)
        return {"text": behind(self.language.logits, h[:, :-1], rows.targets[:, 1:])}
