"""What `smalti info` says to people."""

from smalti.cli.facts import lines, shown


def test_groups_are_paragraphs_below_their_names(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    config = {"grid": [8, 8], "vocab": 16384, "marks": {"start": 0}, "dropout": 0.10000001}
    facts = {
        "draws_in": "float32, as it is",
        "model": {"parameters": 5145088, "config": config, "map": None, "text": "a b c d e f g h"},
        "eras": [{"from": 0, "to": 8}, {"from": 8, "to": 9}],
        "numbers": {"loss": 0.5},
        "commands": ["smalti train a, b", "smalti sample"],
    }
    assert list(lines(facts)) == [
        "draws_in: float32, as it is",
        "model:",
        "  parameters 5,145,088, map none,",
        "  text a b c d e f g h",
        "  config:",
        "    grid [8, 8], vocab 16,384,",
        "    dropout 0.1",
        "    marks:",
        "      start 0",
        "eras:",
        "  from 0, to 8",
        "  from 8, to 9",
        "numbers:",
        f"  {'loss':28} 0.5",
        "commands:",
        "  smalti train a, b",
        "  smalti sample",
    ]


def test_long_lists_are_wrapped_and_nothing_is_left_out(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    names = [f"class {i}" for i in range(40)]
    first, *rows = lines({"classes": names})
    assert first == "classes:" and all(len(row) <= 50 for row in rows)
    assert ", ".join(row.strip().rstrip(",") for row in rows) == ", ".join(names)


def test_values():
    values = (None, [], "", True, 9999, 10000, 1e-5, "Caption:\n", ["bat, stick", "club"])
    words = ["none", "none", "none", "yes", "9999", "10,000", "1e-05", "'Caption:\\n'"]
    assert [shown(v) for v in values] == [*words, "['bat, stick', club]"]
