import pytest

from smalti.data.skipped import none_left, read, report, summary, tell


def test_broken_pictures_are_noted_by_name(pictures):
    source = pictures(4, broken={1, 2})
    assert [read(source, i) is None for i in range(4)] == [False, True, True, False]
    assert source.skipped == {k: f"cannot decode image {k}: it is broken" for k in ("p1", "p2")}


def test_equal_names_are_not_mistaken_for_each_other(pictures):
    source = pictures(2, keys=["same", "same"], broken={0})
    assert read(source, 0) is None and read(source, 1) is not None


def test_another_error_is_not_swallowed(pictures):
    with pytest.raises(IndexError):
        read(pictures(2), 2)


def test_summary_is_one_line_of_few_names():
    skipped = {f"{i}\nx.png": f"bad\n{i}" for i in range(7)}
    assert summary(skipped) == (
        "skipped 7 that cannot be used: 0 x.png, 1 x.png, 2 x.png, 3 x.png, 4 x.png and 2 more "
        "(the first: bad 0)"
    )
    assert report(skipped)["skipped"] == 7 and len(report(skipped)["skipped_first"]) == 5
    assert report({}) == {}


def test_tell_says_what_is_new(pictures, capsys):
    source = pictures(3, broken={0, 1})
    assert tell(source) == 0 and capsys.readouterr().err == ""
    read(source, 0)
    assert tell(source) == 1 and capsys.readouterr().err.count("\n") == 1
    assert tell(source, 1) == 1 and capsys.readouterr().err == ""
    read(source, 1)
    assert tell(source, 1) == 2 and "skipped 2" in capsys.readouterr().err
    assert str(none_left(source)).startswith("pictures: nothing is left to use; skipped 2 ")
