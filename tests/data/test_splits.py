import pytest

from smalti.data.splits import split_folders, split_of


@pytest.mark.parametrize(
    "file, part",
    [
        ("train-00000-of-00005.parquet", "train"),
        ("validation-00000-of-00001.parquet", "validation"),
        ("unsupervised-00000-of-00002.parquet", "unsupervised"),
        ("cifar10-test-00000-of-00001.parquet", "test"),
        ("train_0.parquet", "train"),
        ("Val.parquet", "validation"),
        ("cats.dev.3.parquet", "validation"),
        ("default/test/0000.parquet", "test"),
        ("data/part-0.parquet", ""),
        ("trains-0.parquet", ""),
        ("attest.parquet", ""),
    ],
)
def test_the_part_of_a_file(file, part):
    assert split_of(file) == part


@pytest.mark.parametrize(
    "files, expected",
    [
        (["train/a.png", "test/b.png"], {"": ["test", "train"]}),
        (["Train/cat/a.png", "VAL/cat/b.png", "more/c.png"], {"": ["Train", "VAL"]}),
        (["train/a.png"], {"": ["train"]}),
        (["train2017/a.png", "val2017/b.png", "c/c.png"], {"": ["train2017", "val2017"]}),
        (["training_set/a.png", "test-images/b.png"], {"": ["test-images", "training_set"]}),
        (["train station/a.png", "test tube/b.png"], {}),
        (["train/a.png", "bus/b.png"], {}),
        (["valid/a.png", "invalid/b.png"], {}),
        (["val/a.png", "dev/b.png"], {"": ["dev", "val"]}),
        (["val/a.png", "dev/b.png", "cat/c.png"], {}),
        (["images/train/a.png", "images/test/b.png"], {"images": ["test", "train"]}),
        (["cat/train/a.png", "dog/b.png"], {}),
        (["train.png", "test.png"], {}),
    ],
)
def test_folders_that_are_parts(files, expected):
    assert split_folders(files) == expected
