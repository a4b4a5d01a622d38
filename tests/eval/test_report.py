import math
from dataclasses import asdict, replace

import pytest

from smalti.eval.report import Measured, as_json, compare, counted

FID = Measured("fid_5k", "fid/1: as it is", 20.0, 5000, "generation", "lower", (19.0, 21.0))
FID = replace(FID, reference="abc", reference_images=50_000, preparation="256x256", extractor="w")


def report(*metrics):
    return as_json(list(metrics), {"subject": {}})


@pytest.mark.parametrize(
    ("images", "name"),
    [(50_000, "fid"), (60_000, "fid"), (5000, "fid_5k"), (190, "fid_190"), (1898, "fid_1898")],
)
def test_fewer_images_are_in_the_name(images, name):
    assert counted("fid", images) == name


def test_the_difference_of_two_reports():
    other = replace(FID, value=18.0, interval=(17.0, 19.0))
    ((found,), _) = compare(report(FID), report(other))
    assert found["difference"] == -2 and found["better"] == "b" and found["metric"] == "fid_5k"
    low, high = found["interval"]
    assert (low + high) / 2 == pytest.approx(-2) and (high - low) / 2 == pytest.approx(math.sqrt(2))
    assert found["clear"]
    lopsided = replace(FID, interval=(20.0, 24.0))  # 18 is below all that redrawing gives
    ((found,), _) = compare(report(lopsided), report(replace(other, interval=(18.0, 18.5))))
    assert found["clear"] and found["interval"] == pytest.approx((-2 - 4, -2 + 0.5))
    ((found,), _) = compare(*[report(replace(FID, resampled="reference"))] * 2)
    assert "interval" not in found and "clear" not in found
    ((found,), _) = compare(report(FID), report(replace(other, value=19.0)))
    assert not found["clear"]
    score = replace(FID, metric="precision_5k", better="higher", interval=None)
    ((found,), _) = compare(report(score), report(replace(score, value=25.0)))
    assert found["better"] == "b" and "interval" not in found
    ((found,), _) = compare(report(score), report(score))
    assert found["better"] == "neither"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": "xyz"}, "fid: other references: abc and xyz"),
        ({"reference_images": 10}, "references of 50000 and of 10 images"),
        ({"preparation": "256x256, crop center"}, "other crops or filters"),
        ({"definition": "fid/2"}, "other definitions"),
        ({"extractor": ""}, "other weights of the network: w and none"),
        ({"kind": "reconstruction"}, "one is of generation, the other of reconstruction"),
        ({"metric": "fid_1k", "images": 1000}, "fid: 5,000 images against 1,000"),
        ({"metric": "fid", "images": 50_000}, "fid: 5,000 images against 50,000"),
    ],
)
def test_what_does_not_compare(change, words):
    with pytest.raises(ValueError, match="these do not compare") as error:
        compare(report(FID), report(replace(FID, **change)))
    assert words in str(error.value)


def test_rfid_against_gfid_says_why():
    rfid = replace(FID, metric="rfid_5k", kind="reconstruction")
    with pytest.raises(ValueError, match="fid is of generation, rfid of reconstruction"):
        compare(report(FID), report(rfid))


def test_nothing_in_common():
    with pytest.raises(ValueError, match="no metric in common: fid and recall"):
        compare(report(FID), report(replace(FID, metric="recall_5k")))


def test_a_report_holds_all_that_was_given():
    told = as_json([FID], {"subject": {"name": "x"}})
    assert (
        told["format"] == 1 and told["metrics"] == [asdict(FID)] and told["subject"]["name"] == "x"
    )


def test_what_does_not_compare_hides_nothing_else():
    score = replace(FID, metric="recall_5k", better="higher")
    other = replace(score, extractor="x")
    found, refused = compare(report(FID, score), report(replace(FID, value=18.0), other))
    assert [row["metric"] for row in found] == ["fid_5k"] and found[0]["difference"] == -2
    assert refused == {"recall": "other weights of the network: w and x"}
