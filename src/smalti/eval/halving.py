"""Successive halving: many candidates are measured a little, the best of them better and better.

Jamieson and Talwalkar, 2016 (arXiv:1502.07943): all candidates draw a few pictures, the better
third draws three times as many, and so on; each round costs the same. A row is what is known of a
candidate in a round: `round`, `settings`, `images`, `value`, `fidelity` and `diversity`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

KEPT = 3
"""One candidate in so many goes on."""
LEAST = 16
"""Pictures of a candidate in the first round."""

Row = dict[str, Any]


def rounds(count: int, budget: int) -> list[tuple[int, int]]:
    """Candidates of each round and the pictures that each of them draws.

    Raises ValueError for a budget that leaves fewer than `LEAST` in the first.
    """
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append(max(1, sizes[-1] // KEPT))
    plan = [(size, budget // len(sizes) // size) for size in sizes]
    if plan[0][1] < LEAST:
        raise ValueError(
            f"{count} candidates in {len(sizes)} rounds need a budget of at least "
            f"{LEAST * count * len(sizes)} pictures, got {budget}"
        )
    return plan


def halving(
    tried: list[dict[str, Any]],
    plan: list[tuple[int, int]],
    score: Callable[[dict[str, Any], int], dict[str, Any]],
    better: str,
    done: list[Row],
    note: Callable[[list[Row]], None],
) -> list[Row]:
    """The rows of all rounds: round, settings and what `score` says. `done` are rows that are
    known; `note` gets all after each."""
    rows = list[Row]()
    sign = 1 if better == "lower" else -1
    for number, (size, images) in enumerate(plan):
        if number:
            last = [r for r in rows if r["round"] == number - 1]
            tried = [r["settings"] for r in sorted(last, key=lambda r: sign * r["value"])][:size]
        for settings in tried:
            about = {"round": number, "settings": settings}
            known = [r for r in done if same(r, {"images": images, "settings": settings})]
            rows.append(about | (known[0] | about if known else score(settings, images)))
            note(rows)
    return rows


def same(a: Row, b: Row) -> bool:
    """Whether two rows are of the same settings and equally many pictures."""
    return a["images"] == b["images"] and a["settings"] == b["settings"]


def frontier(rows: list[Row]) -> list[Row]:
    """Those of the first round that no other beats in both fidelity and diversity."""
    first = [r for r in rows if r["round"] == 0]

    def beaten(row: Row) -> bool:
        return any(
            o["fidelity"] >= row["fidelity"]
            and o["diversity"] >= row["diversity"]
            and (o["fidelity"], o["diversity"]) != (row["fidelity"], row["diversity"])
            for o in first
        )

    return sorted((r for r in first if not beaten(r)), key=lambda r: -r["fidelity"])
