"""Real sequences: sizes, masks and classes as their sources say, and one line where a package is missing."""

import importlib.metadata

import numpy as np
import pytest

import rnn_jax as rj
from rnn_jax.data import real
from rnn_jax.data.real.installed import installed_file


def needs(package):
    absent = not any(importlib.metadata.distributions(name=package))
    return pytest.mark.skipif(absent, reason=f"{package} is not installed")


@needs("scikit-learn")
def test_digits_are_images_read_row_by_row():
    train, test = real.pixel_digits()
    for batch, N in ((train, 1438), (test, 359)):
        assert batch.xs.shape == (64, N, 1) and batch.ys.shape == (64, N) and batch.mask is None
        assert batch.xs.min() == 0 and batch.xs.max() == 1
        assert (batch.ys == batch.ys[0]).all() and set(batch.ys[0]) == set(range(10))
        np.testing.assert_array_equal(batch.weight.sum(axis=1), N * (np.arange(64) == 63))
    image = 16 * train.xs[:, 0, 0].reshape(8, 8)
    assert image[0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0] and train.ys[0, 0] == 0


@needs("sktime")
def test_vowels_have_masks_where_an_utterance_has_ended():
    train, test = real.japanese_vowels()
    for batch, N in ((train, 270), (test, 370)):
        lengths = batch.mask.sum(axis=0)
        assert batch.xs.shape == (29, N, 12) and lengths.min() == 7 and lengths.max() in (26, 29)
        assert not batch.xs[~batch.mask].any()
        np.testing.assert_array_equal(batch.weight.argmax(axis=0), lengths - 1)
        np.testing.assert_array_equal(batch.weight.sum(axis=0), 1)
    np.testing.assert_array_equal(np.bincount(train.ys[0]), 30)
    assert np.bincount(test.ys[0]).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    frames = train.xs[train.mask]
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-5)


@needs("reservoirpy")
def test_the_laser_is_one_series():
    series = real.santa_fe_laser()
    assert series.shape == (10_093,) and series.dtype == np.float32
    assert series.min() >= 0 and series.max() == 255 and (series == series.round()).all()


@pytest.mark.parametrize("read", [getattr(real, name) for name in real.__all__], ids=real.__all__)
def test_a_missing_package_is_one_line(read, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(rj.InputError, match=r"the package \S+ is not installed; pip install 'rnn-jax\[real\]'"):
        read()


def test_a_file_that_a_version_lacks_is_one_line():
    with pytest.raises(rj.InputError, match=r"numpy \S+ has no file numpy/letters.csv; pip install -U"):
        installed_file("numpy", "numpy/letters.csv")
