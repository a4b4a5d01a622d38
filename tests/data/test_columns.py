import pytest

from smalti.data.columns import choices, choose, unused


@pytest.mark.parametrize(
    "text, expected",
    [
        ("data", ("data", {})),
        ("data?label=a b&text=c", ("data", {"label": "a b", "text": "c"})),
        ("data?label=", ("data", {"label": ""})),
        ("data/train-0000?.parquet", ("data/train-0000?.parquet", {})),
        ("data/train-?.parquet?split=all", ("data/train-?.parquet", {"split": "all"})),
        ("a/b:test?key=id", ("a/b:test", {"key": "id"})),
    ],
)
def test_what_stands_behind_the_question_mark(text, expected):
    assert choices(text) == expected


def test_an_option_that_is_unknown():
    with pytest.raises(ValueError, match="'lable' is not known; did you mean 'label'.*image=, la"):
        choices("data?lable=x")


def test_a_path_with_a_question_mark_is_a_path(tmp_path):
    (tmp_path / "what?a=b").mkdir()
    assert choices(f"{tmp_path}/what?a=b") == (f"{tmp_path}/what?a=b", {})
    assert choices(f"folder:{tmp_path}/what?a=b") == (f"folder:{tmp_path}/what?a=b", {})


@pytest.mark.parametrize(
    "role, columns, expected",
    [
        ("label", ["labels", "label"], "label"),
        ("label", ["fine_label", "labels"], "labels"),
        ("label", ["class_id", "x"], "class_id"),
        ("label", ["category"], "category"),
        ("label", ["fine_label", "coarse_label"], "fine_label"),
        ("label", ["Label"], "Label"),
        ("label", ["coarse_label", "x"], "coarse_label"),
        ("label", ["coarse_label", "other_label"], None),
        ("label", ["x"], None),
        ("text", ["text", "caption"], "caption"),
        ("text", ["prompt", "captions"], "captions"),
        ("text", ["TEXT", "URL"], "TEXT"),
        ("text", ["en_caption"], "en_caption"),
        ("image", ["picture", "mask"], "picture"),
        ("key", ["image_id", "ID"], None),
        ("key", ["id", "key"], "key"),
        ("file", ["label", "path"], "path"),
    ],
)
def test_the_column_that_is_meant(role, columns, expected):
    assert choose(role, columns, None, "here") == expected


def test_the_column_that_is_asked_for():
    assert choose("label", ["label", "other"], "other", "here") == "other"
    assert choose("label", ["label"], "", "here") is None
    with pytest.raises(
        ValueError, match="here: 'othr' is no column .* label; did you mean 'other'"
    ):
        choose("label", ["label", "other"], "othr", "here")


def test_what_is_said_of_the_rest():
    assert unused(["image", "label"], "label", None, ["image"]) == ""
    assert unused(["image", "labels", "a"], "labels", None, ["image"]) == (
        "labels are column 'labels', no captions; not used: a "
        "(?label=COLUMN and ?text=COLUMN behind the source choose others)"
    )
    assert "no labels, captions 't'; not used: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more (" in unused(
        ["t", *map(str, range(10))], None, "t", []
    )
