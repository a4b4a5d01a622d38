import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codes import TokenSpec
from smalti.data import token_file
from smalti.data.code_batches import CodeBatches
from smalti.data.token_cache import TokenCache
from smalti.data.token_file import Encoding, write_cache

VQ = TokenSpec(grids=((2, 3),), vocab=300)
SPECS = {
    "uint8": TokenSpec(grids=((2, 2),), vocab=256),
    "uint16": VQ,
    "int32": TokenSpec(grids=((1, 4),), vocab=1 << 31),
    "int64": TokenSpec(grids=((1, 4),), vocab=1 << 32),
    "residual": TokenSpec(grids=((2, 2),), vocab=16, depth=3),
    "bits": TokenSpec(grids=((1, 1), (2, 2)), vocab=2, channels=5),
    "continuous": TokenSpec(grids=((2, 2),), channels=4),
}
STORED = {"residual": "uint8", "bits": "uint8", "continuous": "float32"}


def make(spec, count, views=2, seed=0):
    rng = np.random.default_rng(seed)
    shape = (count, views, *spec.shape(1)[1:])
    if spec.discrete:
        return rng.integers(0, spec.vocab, shape)
    return rng.standard_normal(shape).astype(np.float32)


def rows(codes):
    for i, c in enumerate(codes):
        yield c, i % 4 - 1, f"caption {i}", i % 5 == 0, f"key{i}"


def write(path, spec, codes, given=None, **changes):
    about = {
        "spec": spec,
        "views": codes.shape[1],
        "tokenizer_fingerprint": "aaaa",
        "transform": {"size": 32, "crop": "ten"},
        "source": "emoji",
        "source_fingerprint": "bbbb",
        "classes": ["x", "y", "z"],
    }
    encoding = Encoding(**(about | changes))
    return write_cache(path, rows(codes) if given is None else given, encoding)


@pytest.fixture
def short_batches(monkeypatch):
    monkeypatch.setattr(token_file, "ROWS", 4)


@pytest.mark.parametrize(("source", "share"), [("folder:x", 0.1), ("emoji:skin_tones", 0.5)])
def test_the_share_that_is_held_out_is_of_groups(tmp_path, source, share):
    codes = make(VQ, 20)
    given = ((c, 0, "", i < 2, f"{'a' if i < 2 else 'b'}#{i}") for i, c in enumerate(codes))
    write(tmp_path / "a.arrow", VQ, codes, given, source=source)
    assert TokenCache(tmp_path / "a.arrow").holdout == share


@pytest.mark.parametrize("name", SPECS)
def test_round_trip(tmp_path, short_batches, name):
    spec, codes = SPECS[name], make(SPECS[name], 11)
    assert write(tmp_path / "a.arrow", spec, codes) == 11
    cache = TokenCache(tmp_path / "a.arrow")
    assert len(cache) == 11 and cache.spec == spec and cache.views == 2
    assert (cache.tokenizer, cache.source, cache.source_fingerprint) == ("aaaa", "emoji", "bbbb")
    assert cache.transform == {"size": 32, "crop": "ten"} and cache.classes == ["x", "y", "z"]
    order, views = [10, 0, 4, 4, 7], np.array([0, 1, 1, 0, 1])
    read = cache.codes(order, views)
    assert read.shape == spec.shape(5)
    whole = torch.uint8 if spec.vocab == 2 else torch.int64
    assert read.dtype == (whole if spec.discrete else torch.float32)
    assert spec.widened(read).dtype == (torch.int64 if spec.discrete else torch.float32)
    assert (read.numpy() == codes[order, views]).all()
    assert (cache.codes(order).numpy() == codes[order, 0]).all()
    assert cache._parts[0].dtype == STORED.get(name, name)
    assert cache.labels.tolist() == [i % 4 - 1 for i in range(11)]
    assert cache.held_out.tolist() == [0, 5, 10]
    assert cache.train.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert cache.captions("held_out") == ["caption 0", "caption 5", "caption 10"]
    assert len(cache.captions()) == 11 and cache.keys(cache.indices("train")[:2]) == [
        "key1",
        "key2",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]


def test_half_precision(tmp_path):
    spec, codes = SPECS["continuous"], make(SPECS["continuous"], 3)
    write(tmp_path / "a.arrow", spec, codes, half=True)
    read = TokenCache(tmp_path / "a.arrow").codes([2, 1])
    assert read.dtype == torch.float32
    assert (read.numpy() == codes[[2, 1], 0].astype(np.float16)).all()


def test_a_cache_outlives_a_change_of_the_batch_length(tmp_path, monkeypatch):
    codes = make(VQ, 11)
    monkeypatch.setattr(token_file, "ROWS", 3)
    write(tmp_path / "a.arrow", VQ, codes)
    monkeypatch.setattr(token_file, "ROWS", 5)
    read = TokenCache(tmp_path / "a.arrow").codes(np.arange(11))
    assert (read.numpy() == codes[:, 0]).all()


def test_codes_are_read_where_they_lie(tmp_path):
    write(tmp_path / "a.arrow", VQ, make(VQ, 5))
    cache = TokenCache(tmp_path / "a.arrow")
    assert pa.total_allocated_bytes() < 1 << 16
    assert not cache._parts[0].flags.writeable and not cache._parts[0].flags.owndata


def test_require(tmp_path):
    write(tmp_path / "a.arrow", VQ, make(VQ, 3))
    cache = TokenCache(tmp_path / "a.arrow")
    cache.require("aaaa")
    with pytest.raises(ValueError, match="a.arrow was encoded by tokenizer aaaa.*is cccc"):
        cache.require("cccc")


def test_fingerprint(tmp_path):
    codes = make(VQ, 5)
    other = codes.copy()
    other[3, 1, 0] ^= 1
    prints = set()
    for changed, about in ((codes, {}), (other, {}), (codes, {"tokenizer_fingerprint": "dddd"})):
        write(tmp_path / "a.arrow", VQ, changed, **about)
        prints.add(TokenCache(tmp_path / "a.arrow").fingerprint())
        assert TokenCache(tmp_path / "a.arrow").fingerprint() in prints
    assert len(prints) == 3


@pytest.mark.parametrize(
    "codes, message",
    [
        (np.zeros((1, 6)), r"shape \(2, 6\), got \(1, 6\)"),
        (np.full((2, 6), 300), r"integers in \[0, 300\), got int64 in \[300, 300\]"),
        (np.full((2, 6), -1), r"in \[-1, -1\]"),
        (np.zeros((2, 6)), "got float64"),
    ],
)
def test_a_bad_row_leaves_no_file_and_the_old_one_alone(tmp_path, codes, message):
    good = (np.zeros((2, 6), np.int64), 0, "", False, "good")
    given = [good, (codes, 0, "", False, "bad")]
    with pytest.raises(ValueError, match=f"codes of 'bad' must .*{message}"):
        write(tmp_path / "a.arrow", VQ, make(VQ, 1), given)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "a.arrow", VQ, make(VQ, 4))
    with pytest.raises(ValueError, match="bad"):
        write(tmp_path / "a.arrow", VQ, make(VQ, 1), given)
    assert len(TokenCache(tmp_path / "a.arrow")) == 4


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="no rows to write"):
        write(tmp_path / "a.arrow", VQ, make(VQ, 1), [])
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.arrow"
    with pytest.raises(ValueError, match="a.arrow"):
        TokenCache(path)
    with pytest.raises(ValueError, match="is not a complete token cache"):
        TokenCache(tmp_path)
    write(path, VQ, make(VQ, 50))
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="a.arrow is not a complete token cache"):
            TokenCache(path)
    table = pa.table({"x": [1]})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="a.arrow is an Arrow file, but not a token cache"):
        TokenCache(path)


def test_rows_and_views_out_of_range(tmp_path):
    write(tmp_path / "a.arrow", VQ, make(VQ, 5))
    cache = TokenCache(tmp_path / "a.arrow")
    with pytest.raises(ValueError, match=r"rows must be in \[0, 5\), got 1 to 5"):
        cache.codes([1, 5])
    with pytest.raises(ValueError, match=r"views must be in \[0, 2\), got 2 to 2"):
        cache.codes([1], 2)
    with pytest.raises(ValueError, match="train, held_out, all, got 'test'"):
        cache.captions("test")  # type: ignore[arg-type]
    assert cache.codes([]).shape == (0, 6)


def test_batches(tmp_path, short_batches):
    codes = make(VQ, 11)
    write(tmp_path / "a.arrow", VQ, codes)
    cache = TokenCache(tmp_path / "a.arrow")
    batches = CodeBatches(cache, cache.train, batch=8, seed=1)
    assert len(batches) == 8
    views = set()
    for step in range(4):
        batch = batches.batch(step)
        found = [np.argwhere((codes == c.numpy()).all(-1))[0] for c in batch["codes"]]
        assert sorted(row for row, _ in found) == cache.train.tolist()
        assert batch["labels"].tolist() == [cache.labels[row] for row, _ in found]
        views.update(int(v) for _, v in found)
    assert views == {0, 1}
    parts = [CodeBatches(cache, cache.train, 8, 1, r, 4).batch(2)["codes"] for r in range(4)]
    assert torch.equal(torch.cat(parts), batches.batch(2)["codes"])
    fixed = CodeBatches(cache, cache.train, 8, train=False).batch(1)["codes"]
    assert all((codes[:, 0] == c.numpy()).all(-1).any() for c in fixed)


def test_evaluation(tmp_path):
    codes = make(VQ, 11)
    write(tmp_path / "a.arrow", VQ, codes)
    cache = TokenCache(tmp_path / "a.arrow")
    given = list(CodeBatches(cache, cache.held_out, batch=4).evaluation(2))
    assert [len(b["labels"]) for b in given] == [2, 1]
    assert (torch.cat([b["codes"] for b in given]).numpy() == codes[[0, 5, 10], 0]).all()
    with pytest.raises(ValueError, match=r"indices must be in \[0, 11\)"):
        CodeBatches(cache, [11], 4)


# -- distributions of codes


NORMAL = SPECS["continuous"]


def distributions(count, views=2, seed=0):
    """Means and standard deviations, (count, views, N, 2C)."""
    mean = make(NORMAL, count, views, seed)
    return np.concatenate((mean, 0.1 + np.abs(make(NORMAL, count, views, seed + 1))), -1)


def spread(path, count=11, views=2, half=False):
    moments = distributions(count, views)
    write(path, NORMAL, moments, posterior=True, half=half)
    return moments, TokenCache(path)


@pytest.mark.parametrize("half", [False, True])
def test_means_and_samples_of_a_posterior(tmp_path, short_batches, half):
    moments, cache = spread(tmp_path / "a.arrow", half=half)
    assert cache.posterior and cache.spec == NORMAL
    assert cache._parts[0].dtype == (np.float16 if half else np.float32)
    kept = moments.astype(np.float16).astype(np.float32) if half else moments
    rows, views = np.array([10, 3, 3]), np.array([0, 1, 1])
    mean, std = np.split(kept[rows, views], 2, -1)
    assert (cache.codes(rows, views).numpy() == mean).all()
    found = cache.codes(rows, views, np.array([5, 5, 6]))
    assert found.dtype == torch.float32 and found.shape == NORMAL.shape(3)
    noise = (found.numpy() - mean) / std
    assert noise[0] == pytest.approx(noise[1], abs=1e-4), "the noise is a function of the seed"
    assert np.abs(noise[1] - noise[2]).max() > 0.1
    many = cache.codes(np.zeros(4000, int), 0, np.arange(4000)).numpy()
    mean, std = np.split(kept[0, 0], 2, -1)
    assert many.mean(0) == pytest.approx(mean, abs=0.15) and many.std(0) == pytest.approx(
        std, rel=0.1
    )


def test_every_epoch_is_another_sample_and_evaluation_the_mean(tmp_path):
    moments, cache = spread(tmp_path / "a.arrow", views=1)
    batches = CodeBatches(cache, cache.train, batch=8, seed=1)  # an epoch is a step
    order = [batches.names(step) for step in range(3)]

    def found(step, given=batches):
        codes = given.batch(step)["codes"]
        return {key: code for key, code in zip(order[step], codes, strict=True)}

    first, second = found(0), found(1)
    for row in cache.train:
        key = f"key{row}"
        assert not torch.equal(first[key], second[key])
        distance = (first[key].numpy() - moments[row, 0, :, :4]) / moments[row, 0, :, 4:]
        assert np.abs(distance).max() < 5
    assert torch.equal(batches.batch(2)["codes"], batches.batch(2)["codes"])
    parts = [CodeBatches(cache, cache.train, 8, 1, r, 4).batch(2)["codes"] for r in range(4)]
    assert torch.equal(torch.cat(parts), batches.batch(2)["codes"]), "on any number of ranks"
    (given,) = batches.evaluation(8)
    assert (given["codes"].numpy() == moments[cache.train, 0, :, :4]).all()
    fixed = found(0, CodeBatches(cache, cache.train, 8, 1, train=False))
    assert all((fixed[f"key{r}"].numpy() == moments[r, 0, :, :4]).all() for r in cache.train)


def test_plain_continuous_codes_have_no_samples(tmp_path):
    codes = make(NORMAL, 5)
    write(tmp_path / "a.arrow", NORMAL, codes)
    cache = TokenCache(tmp_path / "a.arrow")
    assert not cache.posterior
    assert (cache.codes([2], 1, np.array([7])).numpy() == codes[[2], 1]).all()


@pytest.mark.parametrize(
    ("value", "half"), [(np.nan, False), (np.inf, False), (-np.inf, True), (1e5, True)]
)
def test_codes_that_are_no_numbers_name_the_image(tmp_path, value, half):
    codes = make(NORMAL, 3)
    codes[1, 1, 2, 3] = value
    kind = "float16" if half else "float32"
    with pytest.raises(ValueError, match=f"codes of 'key1' must be finite numbers of {kind}"):
        write(tmp_path / "a.arrow", NORMAL, codes, half=half)
    assert list(tmp_path.iterdir()) == []


def test_damage_to_continuous_codes_names_the_images(tmp_path):
    codes = make(NORMAL, 6)
    codes[4] = 0.3330078125  # bytes that occur nowhere else
    path = tmp_path / "a.arrow"
    write(path, NORMAL, codes)
    whole, one = path.read_bytes(), np.float32(0.3330078125).tobytes()
    path.write_bytes(whole.replace(one, np.float32(np.nan).tobytes()))
    cache = TokenCache(path)
    assert cache.codes([0, 1, 2, 3, 5]).isfinite().all()
    with pytest.raises(ValueError, match="a.arrow is damaged: codes of key4 are no numbers"):
        cache.codes([3, 4])


# -- captions


ENCODER = {"type": "t5", "config": {"length": 4, "dim": 3}, "fingerprint": "eeee"}
LENGTHS = [2, 4, 0, 1, 3, 4, 2, 1, 0, 4, 3]


def texts(codes):
    rng = np.random.default_rng(1)
    for row, length in zip(rows(codes), LENGTHS, strict=True):
        yield *row, rng.standard_normal((length, 3))


def test_features_of_captions_come_back_left_padded(tmp_path, short_batches):
    codes = make(VQ, 11)
    given = list(texts(codes))
    write(tmp_path / "a.arrow", VQ, codes, given, text=ENCODER)
    cache = TokenCache(tmp_path / "a.arrow")
    assert cache.encoder == ENCODER
    order = [10, 2, 5, 5, 3]
    features, mask = cache.text(order)
    assert features.shape == (5, 4, 3) and features.dtype == torch.float16
    for slot, row in enumerate(order):
        length = LENGTHS[row]
        assert mask[slot].tolist() == [False] * (4 - length) + [True] * length
        assert (features[slot, 4 - length :].numpy() == given[row][5].astype(np.float16)).all()
        assert (features[slot, : 4 - length] == 0).all()
    assert cache.captions_of(order) == [f"caption {i}" for i in order]


def test_what_a_text_recipe_asks_of_a_cache(tmp_path):
    codes = make(VQ, 11)
    write(tmp_path / "a.arrow", VQ, codes, list(texts(codes)), text=ENCODER)
    cache = TokenCache(tmp_path / "a.arrow")
    cache.require_text("eeee")
    cache.require_captions()
    with pytest.raises(ValueError, match="features of text encoder eeee, but .* is ffff"):
        cache.require_text("ffff")
    bare = [(c, -1, "", False, "key") for c in codes]
    write(tmp_path / "b.arrow", VQ, codes, bare)
    cache = TokenCache(tmp_path / "b.arrow")
    with pytest.raises(ValueError, match="features of none, but .* is ffff"):
        cache.require_text("ffff")
    with pytest.raises(ValueError, match="images of emoji have no captions"):
        cache.require_captions()
    with pytest.raises(ValueError, match="holds no features"):
        cache.text([0])


class Lengths:
    """A learned encoder whose only token is the caption's last digit."""

    learned = True

    def tokenize(self, texts):
        return torch.tensor([[int(t[-1])] for t in texts])


class Frozen:
    learned = False


def test_batches_with_captions(tmp_path):
    codes = make(VQ, 11)
    write(tmp_path / "a.arrow", VQ, codes, list(texts(codes)), text=ENCODER)
    cache = TokenCache(tmp_path / "a.arrow")
    batch = CodeBatches(cache, cache.train, 8, encoder=Lengths()).batch(0)
    plain = CodeBatches(cache, cache.train, 8).batch(0)
    assert "text_tokens" not in plain and torch.equal(batch["codes"], plain["codes"])
    rows = [int(np.argwhere((codes == c.numpy()).all(-1))[0, 0]) for c in batch["codes"]]
    assert batch["text_tokens"][:, 0].tolist() == [row % 10 for row in rows]
    frozen = CodeBatches(cache, cache.train, 8, encoder=Frozen()).batch(0)
    wanted, mask = cache.text(rows)
    assert torch.equal(frozen["text"], wanted) and torch.equal(frozen["text_mask"], mask)
    (first, *_) = CodeBatches(cache, cache.held_out, 4, encoder=Lengths()).evaluation(2)
    assert first["text_tokens"][:, 0].tolist() == [0, 5] and "chance" not in first


def worded(path, count=40):
    """A cache of rows with three other texts each, but for the first."""
    codes = make(VQ, count, views=1)
    given = (
        (c, 0, f"caption {i}", False, f"key{i}", None, None, ("a", "b", "c") if i else ())
        for i, c in enumerate(codes)
    )
    write(path, VQ, codes, given, wordings=True)
    return TokenCache(path)


class Texts:
    """A learned encoder whose tokens say whether a text is the caption, and else which it is."""

    learned = True

    def tokenize(self, texts):
        return torch.tensor([["cabc".index(t[0], 1) if len(t) == 1 else 0] for t in texts])


def test_other_texts_of_a_row_by_chance(tmp_path):
    cache = worded(tmp_path / "a.arrow")
    rows = np.array([1, 1, 1, 1, 1, 0, 0])
    chance = np.array([0.0, 0.499, 0.5, 0.7, 0.999, 0.0, 0.999])
    wanted = ["caption 1", "caption 1", "a", "b", "c", "caption 0", "caption 0"]
    assert cache.wordings and cache.texts_of(rows, chance) == wanted
    assert [row.wordings for row in cache.rows()][:2] == [(), ("a", "b", "c")]
    write(tmp_path / "b.arrow", VQ, make(VQ, 3))
    plain = TokenCache(tmp_path / "b.arrow")
    assert not plain.wordings and plain.texts_of(np.array([2]), np.array([0.9])) == ["caption 2"]


def test_training_reads_the_caption_half_of_the_time(tmp_path):
    cache = worded(tmp_path / "a.arrow")
    batches = CodeBatches(cache, cache.train, 8, seed=3, encoder=Texts())
    every = torch.cat([batches.batch(step)["text_tokens"] for step in range(200)])[:, 0]
    shares = [(every == kind).float().mean().item() for kind in range(4)]
    assert abs(shares[0] - 0.5 - 0.5 / 40) < 0.04, "the caption; always, of the row without others"
    assert all(abs(share - (1 - shares[0]) / 3) < 0.03 for share in shares[1:])
    again = CodeBatches(cache, cache.train, 8, seed=3, encoder=Texts())
    assert torch.equal(again.batch(7)["text_tokens"], batches.batch(7)["text_tokens"])
    parts = [CodeBatches(cache, cache.train, 8, 3, r, 2, encoder=Texts()) for r in range(2)]
    parts = torch.cat([part.batch(7)["text_tokens"] for part in parts])
    assert torch.equal(parts, batches.batch(7)["text_tokens"])
    (held, *_) = batches.evaluation(40)
    assert not held["text_tokens"].any(), "what is measured is the caption"


def test_chances_are_the_same_on_any_number_of_ranks(tmp_path):
    write(tmp_path / "a.arrow", VQ, make(VQ, 11))
    cache = TokenCache(tmp_path / "a.arrow")
    batches = CodeBatches(cache, cache.train, 8, seed=1)
    chances = [batches.batch(step)["chance"] for step in range(20)]
    assert chances[0].dtype == torch.float32 and torch.equal(batches.batch(0)["chance"], chances[0])
    parts = [CodeBatches(cache, cache.train, 8, 1, r, 4).batch(3)["chance"] for r in range(4)]
    assert torch.equal(torch.cat(parts), chances[3])
    every = torch.cat(chances)
    assert 0 <= every.min() < 0.1 and 0.9 < every.max() < 1 and len(every.unique()) == 160
    assert not torch.equal(chances[0].sort()[0], chances[1].sort()[0])  # each epoch its own
    other = CodeBatches(cache, cache.train, 8, seed=2).batch(0)["chance"]
    assert not torch.equal(other.sort()[0], chances[0].sort()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.arrow"
    write(path, SPECS["residual"], make(SPECS["residual"], 11))
    return path.read_bytes()


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_file_is_an_error_or_gives_codes_of_the_vocabulary(whole, tmp_path_factory, data):
    """Never another exception, and never a crash of Arrow's."""
    content = bytearray(whole)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "damaged.arrow"
    path.write_bytes(content)
    try:
        cache = TokenCache(path)
        everything = np.arange(len(cache))
        codes = cache.codes(everything, cache.views - 1)
        assert len(cache.keys(everything)) == len(cache.captions()) == len(codes)
    except ValueError as error:
        assert "damaged.arrow" in str(error)
    else:
        assert 0 <= codes.min() and codes.max() < cache.spec.vocab


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_bits_are_packed_and_come_back(tmp_path_factory, bits, positions, seed):
    spec, path = TokenSpec(((1, positions),), 2, channels=bits), tmp_path_factory.mktemp("c") / "a"
    codes = make(spec, 5, seed=seed)
    write(path, spec, codes)
    cache = TokenCache(path)
    assert cache._parts[0].shape == (5, 2, -(-positions * bits // 8))
    assert (cache.codes(np.arange(5), 1).numpy() == codes[:, 1]).all()
    assert cache.codes([]).shape == (0, positions, bits)
    again = [row.codes for row in cache.rows()]
    assert (np.stack(again) == codes).all()


def test_32_bits_take_little_more_than_4_bytes(tmp_path):
    spec = TokenSpec(((16, 16),), 2, channels=32)
    write(tmp_path / "a.arrow", spec, make(spec, 1000, views=1))
    assert (tmp_path / "a.arrow").stat().st_size / (1000 * 256) <= 4.2


def test_bits_that_an_earlier_smalti_did_not_pack(tmp_path, monkeypatch):
    spec, codes = SPECS["bits"], make(SPECS["bits"], 6)
    monkeypatch.setattr(Encoding, "version", property(lambda _: token_file.PLAIN))
    write(tmp_path / "a.arrow", spec, codes)
    cache = TokenCache(tmp_path / "a.arrow")
    assert cache._parts[0].shape == codes.shape
    assert (cache.codes(np.arange(6), 1).numpy() == codes[:, 1]).all()


def test_a_version_that_is_to_come_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Encoding, "version", property(lambda _: 3))
    write(tmp_path / "a.arrow", VQ, make(VQ, 4))
    with pytest.raises(ValueError, match="version 3, this smalti reads versions 1 and 2"):
        TokenCache(tmp_path / "a.arrow")
