"""Metrics of sets of pictures: by hand from all features, and what is kept of a reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.eval import gathered as module
from smalti.eval import measure as measuring
from smalti.eval.frechet import Gaussian, distance
from smalti.eval.gathered import gather, of_reference
from smalti.eval.measure import measure
from smalti.eval.metrics import METRICS, How
from smalti.eval.scores import inception_score, precision_recall
from smalti.eval.sets import open_set
from smalti.eval.wavelet import fwd
from smalti.features.inception import Features

ALL = ("fwd", "fid", "sfid", "inception_score", "precision", "recall", "kid")


class Net:
    """A stand-in for Inception: other features of the mean of each part of a picture."""

    hash = "0123"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        parts = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        return Features(parts[:, :8], parts[:, 4:], 9 * parts)


def pictures(count, seed, size=16):
    rng = np.random.default_rng(seed)
    light = rng.integers(0, 200, (count, 1, 1, 3))
    return (light + rng.integers(0, 56, (count, size, size, 3))).astype(np.uint8)


def npz(path, array, **more):
    np.savez(path, arr_0=array, **more)
    return open_set(path)


@pytest.fixture
def sets(tmp_path):
    samples, real = pictures(150, 0), pictures(120, 1)
    return npz(tmp_path / "a.npz", samples), npz(tmp_path / "b.npz", real)


def by_name(found):
    return {m.metric.rpartition("_")[0]: m for m in found}


def test_every_metric_is_that_of_all_features_at_once(sets, monkeypatch):
    monkeypatch.setattr(measuring, "KID_SUBSET", 60)
    samples, real = sets
    net = Net()
    found = by_name(measure(*sets, How(ALL, net, draws=20, batch=32)))
    a, b = (torch.cat(list(s.batches(64))) for s in sets)
    x, y = net(a), net(b)

    def gaussian(rows):
        return Gaussian(rows.double().mean(0), rows.double().T.cov())

    expected = {
        "fwd": fwd([a], [b]),
        "fid": distance(gaussian(x.pool), gaussian(y.pool)).item(),
        "sfid": distance(gaussian(x.spatial), gaussian(y.spatial)).item(),
        "inception_score": inception_score(x.logits),
    }
    expected |= dict(zip(("precision", "recall"), precision_recall(y.pool, x.pool), strict=True))
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-7), name
        assert found[name].images == 150 and found[name].metric == f"{name}_150"
        assert found[name].extractor == ("" if name == "fwd" else "0123")
    for name in ("fwd", "fid", "sfid"):
        low, high = found[name].interval
        assert low < found[name].value < high
        assert found[name].reference == real.hash and found[name].reference_images == 120
    assert "level 2" in found["fwd"].definition and "subsets of 60" in found["kid"].definition
    assert not found["inception_score"].reference
    assert samples.hash != real.hash


class Drawn:
    """Pictures of a seed, "drawn" by batches."""

    def __init__(self, seed, count=200):
        self.seed, self.count = seed, count

    def __len__(self):
        return self.count

    def batches(self, n):
        yield from torch.from_numpy(pictures(self.count, self.seed)).permute(0, 3, 1, 2).split(n)


def holds(numbers):
    """Whether intervals of many draws tell how far the draws are apart."""
    values, intervals = zip(*numbers, strict=True)
    middle = np.median(values)
    held = sum(low <= middle <= high for low, high in intervals)
    widths = [high - low for low, high in intervals]
    return held >= 0.65 * len(values) and 0.5 < np.mean(widths) / (4 * np.std(values)) < 2


def test_intervals_hold_the_spread_of_other_draws():
    """Fréchet distances of other samples of the same kind lie within, most of the time."""
    how = How(("fwd",), level=2, draws=50, batch=10)
    other = gather(Drawn(99).batches(10), how, {"packets"}).gaussian("packets")
    numbers = []
    for seed in range(12):
        found = gather(Drawn(seed).batches(10), how, {"packets"})
        assert len(found.moments["packets"]) == module.BLOCKS
        numbers.append(measuring._frechet(found, _known(other), "packets", how))
    assert holds(numbers)


def test_intervals_of_scores_hold_the_spread_of_other_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "KID_SUBSET", 100)
    names = [n for n in METRICS if METRICS[n].needs in ("rows", "logits")]
    real = npz(tmp_path / "b.npz", pictures(150, 99) // 2 + 40)
    how, found = How(tuple(names), Net(), draws=40), {name: [] for name in names}
    for seed in range(12):
        for number in measure(Drawn(seed, 150), real, how):
            name = number.metric.rpartition("_")[0]
            found[name].append((number.value, number.interval))
            assert number.resampled == ("reference" if name == "recall" else "images")
    assert {"precision", "recall", "kid", "inception_score", "inception_score_fidelity"} == {*found}
    for name, numbers in found.items():
        if name != "recall":  # its interval is that of other references
            assert holds(numbers), name
        assert all(low <= value <= high for value, (low, high) in numbers)
    again = measure(Drawn(11, 150), real, How(tuple(names), Net(), draws=0))
    assert [n.interval for n in again] == [None] * len(names)
    last = [found[name][-1][0] for name in names]
    assert [n.value for n in again] == pytest.approx(last, rel=1e-12)


class Back:
    """Every picture a little darker."""

    def __init__(self, given):
        self.given = given

    def __len__(self):
        return len(self.given)

    def batches(self, n):
        for images in self.given.batches(n):
            yield (images.float() * 0.9).round().to(torch.uint8)


@pytest.mark.slow
def test_reconstructions_are_resampled_with_their_pictures(tmp_path):
    """So the interval is that of other pictures: far narrower than that of either set alone."""

    how, numbers, alone = How(("fwd", "fid", "kid"), Net(), level=2, draws=30, batch=5), [], []
    for seed in range(10):
        real = npz(tmp_path / f"{seed}.npz", pictures(100, seed))
        paired = measure(Back(real), real, how, "reconstruction", tmp_path)
        assert [n.metric for n in paired] == ["rfwd_100", "rfid_100", "rkid_100"]
        assert {n.resampled for n in paired} == {"reference"}
        numbers.append([(n.value, n.interval) for n in paired])
        if seed < 3:
            apart = measure(Back(real), real, how)
            alone.append([n.interval for n in apart])
            values = [n.value for n in apart]
            assert [n.value for n in paired] == pytest.approx(values, rel=1e-7)
    values = [n.value for n in measure(Back(real), real, replace(how, draws=0))]
    assert [n.value for n in paired] == pytest.approx(values, rel=1e-7)
    for metric in range(3):
        assert holds([n[metric] for n in numbers])
        paired, other = (
            np.mean([high - low for low, high in intervals])
            for intervals in ([n[metric][1] for n in numbers], [i[metric] for i in alone])
        )
        assert paired < other / 2


def _known(gaussian):
    return module.Gathered(known={"packets": gaussian})


def test_what_is_known_of_a_reference_is_kept(sets, tmp_path):
    samples, real = sets
    how = How(("fid", "recall"), Net(), draws=0)
    first = measure(samples, real, how, cache=tmp_path / "kept")
    assert how.net.seen == 270
    again = measure(samples, real, how, cache=tmp_path / "kept")
    assert how.net.seen == 420 and again == first
    (file,) = (tmp_path / "kept").iterdir()
    assert file.name == f"{module.KEPT}-{real.hash}-0123-pool-rows.safetensors"
    other = Net()
    other.hash = "4567"
    measure(samples, real, How(("fid", "recall"), other, draws=0), cache=tmp_path / "kept")
    assert other.seen == 270  # another network's features are computed


def test_statistics_of_a_reference_are_used_as_they_are(sets, tmp_path):
    samples, real = sets
    how = How(("fid",), Net(), draws=0)
    known = of_reference(real, how, None).gaussian("pool")
    np.savez(tmp_path / "s.npz", mu=known.mean.numpy(), sigma=known.cov.numpy())
    statistics = open_set(tmp_path / "s.npz")
    (expected,), (found,) = (measure(samples, r, how) for r in (real, statistics))
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.preparation.endswith("reference statistics")
    with pytest.raises(ValueError, match=r"precision needs pictures; .*s.npz holds only mu, sigma"):
        measure(samples, statistics, How(("fid", "precision"), Net()))


def test_reconstructions_have_names_of_their_own(sets):
    (found,) = measure(*sets, How(draws=0), "reconstruction")
    assert found.metric == "rfwd_150" and found.kind == "reconstruction" and found.interval is None


def test_too_few_pictures_are_told(tmp_path):
    samples, real = (
        npz(tmp_path / "a.npz", pictures(9, 0)),
        npz(tmp_path / "b.npz", pictures(40, 1)),
    )
    said = []
    measure(samples, real, How(("fwd",), level=0), say=said.append)
    assert said == [s for s in said if "9 images give a singular covariance of 768 features" in s]
    assert len(said) == 1
    one = npz(tmp_path / "c.npz", pictures(1, 0))
    with pytest.raises(ValueError, match="at least 2 pictures, got 1"):
        measure(one, real, How())


def test_bad_requests(sets, tmp_path):
    samples, _ = sets
    with pytest.raises(ValueError, match="got 'fidd'; did you mean 'fid'"):
        How(("fidd",))
    with pytest.raises(ValueError, match="fid, recall: the Inception network is needed"):
        How(("fwd", "fid", "recall"))
    with pytest.raises(ValueError, match="fwd: a reference is needed"):
        measure(samples, None, How())
    large = npz(tmp_path / "l.npz", pictures(9, 0, 32))
    with pytest.raises(ValueError, match="pictures of 16 x 16 pixels, .* of 32 x 32"):
        measure(samples, large, How())


def test_the_score_of_pictures_alone_needs_no_reference(sets):
    (found,) = measure(sets[0], None, How(("inception_score",), Net()))
    assert found.value > 1 and not found.reference and found.better == "higher"


def test_memory_is_bounded_by_fewer_blocks(tmp_path, monkeypatch):
    given = Drawn(0, 100)
    each = 16 * 48 * 48 * 8
    for room, blocks in ((20, 20), (6, 6), (3, 1)):  # 3 are too few for an interval
        found = gather(given.batches(10), How(level=2), {"packets"}, room * each)
        assert len(found.moments["packets"]) == blocks
        assert sum(m.count for m in found.moments["packets"]) == 100
    shared = gather(given.batches(10), How(("fid",), Net(), 2), {"packets", "pool"}, 12 * each)
    assert [len(shared.moments[name]) for name in ("packets", "pool")] == [6, 20]
    said, real = [], npz(tmp_path / "b.npz", pictures(60, 1))
    monkeypatch.setattr(measuring, "ROOM", 3 * each)
    (found,) = measure(given, real, How(level=2, draws=9), say=said.append)
    assert found.interval is None and "packets: there is no interval: 4 blocks" in said[-1]


def test_reconstructions_are_not_held_against_statistics_of_other_pictures(sets, tmp_path):
    samples, real = sets
    pixels = np.load(real.name)["arr_0"]
    wrong = {"mu": np.zeros(8), "sigma": np.eye(8)}
    both = npz(tmp_path / "both.npz", pixels, **wrong)
    how = How(("fid",), Net(), draws=0)
    (alone,), (back,) = (measure(samples, r, how, "reconstruction") for r in (real, both))
    (drawn,) = measure(samples, both, how)
    assert back.value == alone.value and drawn.value > 2 * alone.value


def test_what_is_kept_is_made_anew_if_it_is_damaged(sets, tmp_path):
    how = How(("fid",), Net(), draws=0)
    first = measure(*sets, how, cache=tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:40])
    assert measure(*sets, how, cache=tmp_path) == first and file.read_bytes() == whole


@pytest.mark.parametrize("count", [200, 1300])
def test_intervals_do_not_hang_on_the_order_of_pictures(count):
    """As they are drawn, sorted by class, and by ten classes in turn."""
    light = torch.arange(count) % 10
    noise = torch.randint(0, 30, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = (noise + 20 * light.view(-1, 1, 1, 1)).to(torch.uint8)
    chance = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    how = How(level=2, draws=100, batch=32)
    other = gather((255 - images).split(32), replace(how, draws=0), {"packets"})
    widths = []
    for order in (chance, light.argsort(stable=True), torch.arange(count)):
        found = gather(images[order].split(32), how, {"packets"})
        low, high = measuring._frechet(found, _known(other.gaussian("packets")), "packets", how)[1]
        widths.append((high - low) / 2)
    assert max(widths) < 1.6 * min(widths)


@pytest.mark.slow
def test_intervals_do_not_hang_on_the_number_of_blocks_nor_on_what_waits(monkeypatch):
    """Of samples of the reference's own kind, of which the distance is mostly bias."""
    how, each = How(level=2, draws=200, batch=16), 16 * 48 * 48 * 8
    other = _known(
        gather(Drawn(99, 900).batches(16), replace(how, draws=0), {"packets"}).gaussian("packets")
    )
    numbers = {4: [], 20: []}
    for seed in range(20):
        for blocks, found in numbers.items():
            drawn = gather(Drawn(seed, 160).batches(16), how, {"packets"}, each * blocks)
            assert len(drawn.moments["packets"]) == blocks
            found.append(measuring._frechet(drawn, other, "packets", how))
    assert all(holds(found) for found in numbers.values())
    monkeypatch.setattr(module, "WAITING", 10_000)
    drawn = gather(Drawn(19, 160).batches(16), how, {"packets"}, each * 20)
    again = measuring._frechet(drawn, other, "packets", how)
    assert again[0] == pytest.approx(numbers[20][-1][0], rel=1e-9)
    assert again[1] == pytest.approx(numbers[20][-1][1], rel=1e-6)


def test_what_cannot_be_kept_is_told_and_measured(sets, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (found,) = measure(*sets, How(draws=0), cache=tmp_path / "file" / "references")
    assert found.value > 0 and "is not kept" in capsys.readouterr().err


def test_too_few_readable_pictures_of_a_reference(tmp_path):
    folder = tmp_path / "p" / "x"
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures(6, 0)):
        Image.fromarray(picture).save(folder / f"{i}.png")
        if i >= 3:  # the first pictures are read when a set is opened
            whole = (folder / f"{i}.png").read_bytes()
            (folder / f"{i}.png").write_bytes(whole[: len(whole) // 2])  # its size can be read
    how = How(("precision",), Net())
    for cache in (None, tmp_path / "c", tmp_path / "c"):
        for paired in (False, True):
            with pytest.raises(ValueError, match="precision needs at least 4 pictures, .* has 3"):
                of_reference(open_set(tmp_path / "p", skip_bad=True), how, cache, paired)


@pytest.mark.parametrize("equal", [12, 30, 100])
def test_pictures_that_are_all_alike_have_a_distance_and_an_interval(tmp_path, equal):
    flat = np.full((equal, 16, 16, 3), 255, np.uint8)
    real = npz(tmp_path / "b.npz", pictures(120, 1))
    for name, pixels in (("a", flat), ("c", np.concatenate((flat, pictures(1, 0))))):
        given = npz(tmp_path / f"{name}.npz", pixels)
        for level in (1, 2):
            (found,) = measure(given, real, How(level=level, draws=40))
            low, high = found.interval
            assert 0 <= low <= found.value <= high
            (alone,) = measure(given, real, How(level=level, draws=0))
            assert found.value == pytest.approx(alone.value, rel=1e-8)


def test_a_broken_original_is_left_out_of_both_sides(tmp_path):
    """And blocks of both sides hold the same pictures."""
    folder = tmp_path / "p" / "x"
    folder.mkdir(parents=True)
    pixels = pictures(30, 0)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:02d}.png")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:60])
    good = npz(tmp_path / "good.npz", np.delete(pixels, 7, 0))
    how = How(("fwd", "kid"), Net(), level=2, draws=20)
    found = []
    for given in (open_set(tmp_path / "p", skip_bad=True), good):
        found.append(measure(Back(given), given, how, "reconstruction"))
        found.append(measure(given, given, how, cache=tmp_path / "c"))
        found.append(measure(given, given, how, cache=tmp_path / "c"))
    for mine, other in zip(found[:3], found[3:], strict=True):
        for x, y in zip(mine, other, strict=True):
            assert (x.metric, x.definition, x.images) == (y.metric, y.definition, 29)
            assert x.value == pytest.approx(y.value, rel=1e-9, abs=1e-12)
            assert x.interval == pytest.approx(y.interval, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("labels", "warned"), [([0, 0, 1, 1], True), ([0, 1, 0, 1], False)])
def test_a_class_sorted_score_is_told(tmp_path, labels, warned):
    said = []
    given = npz(tmp_path / "a.npz", pictures(4, 0), arr_1=np.array(labels))
    measure(given, None, How(("inception_score",), Net()), say=said.append)
    assert ["sorted by class" in text for text in said] == [True] * warned
