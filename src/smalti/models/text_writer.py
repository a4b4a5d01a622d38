"""A language model that learns to write texts, for training alone.

B rows, L positions, V ids, D width.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from smalti.models.language import Language
from smalti.models.one_vocabulary import place_of
from smalti.models.unified import Term
from smalti.sampling.noise import Noise
from smalti.text.sequence import IGNORED, Rows


class TextWriter(nn.Module):
    """Rows of ids (B, L) to the ids that come next."""

    NO_DECAY = ("*tok_embeddings.*",)

    def __init__(self, language: Language) -> None:
        super().__init__()
        self.language = language

    def terms(self, rows: Rows, noise: Noise) -> dict[str, Term]:
        """Nats of each id that is learned, given all before it, (B, L)."""
        length = rows.ids.shape[1]
        place = place_of(self.language, rows, 0, length)
        h, labels = self.language(self.language.embed(rows.ids), place)[:, :-1], rows.targets[:, 1:]
        where = labels != IGNORED  # logits of nothing else are computed
        logits = self.language.logits(h[where]).float()
        nats = F.cross_entropy(logits, labels[where], reduction="none")
        nats = nats.new_zeros(labels.shape).masked_scatter(where, nats)
        return {"text": Term(F.pad(nats, (1, 0)), F.pad(where, (1, 0)))}
