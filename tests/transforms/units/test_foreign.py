"""Foreign k-means files: every form they come in is read, and nothing in them is ever run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.units import foreign

FORMS: dict[str, Callable[[object, Path], object]] = {
    "joblib": joblib.dump,
    "joblib, protocol 2": lambda model, path: joblib.dump(model, path, protocol=2),
    "joblib, zlib": lambda model, path: joblib.dump(model, path, compress=("zlib", 3)),
    "joblib, gzip": lambda model, path: joblib.dump(model, path, compress=("gzip", 3)),
    **{
        f"pickle, protocol {n}": lambda model, path, n=n: path.write_bytes(pickle.dumps(model, protocol=n))
        for n in range(6)
    },
}


def kmeans(dtype: type = np.float32) -> object:
    from sklearn.cluster import MiniBatchKMeans

    frames = np.random.default_rng(0).normal(size=(300, 7)).astype(dtype)
    # A RandomState is in the file too, as in those of fairseq.
    return MiniBatchKMeans(12, n_init=1, random_state=np.random.RandomState(3)).fit(frames)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_centroids(tmp_path: Path, form: str, dtype: type) -> None:
    model, path = kmeans(dtype), tmp_path / "km.bin"
    FORMS[form](model, path)
    np.testing.assert_array_equal(foreign.read(path), model.cluster_centers_.astype(np.float32))


def test_bare_arrays_in_either_order(tmp_path: Path) -> None:
    centroids = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 3)))
    np.save(tmp_path / "a.npy", centroids)
    joblib.dump(centroids, tmp_path / "b.bin")
    for name in ("a.npy", "b.bin"):
        np.testing.assert_array_equal(foreign.read(tmp_path / name), centroids.astype(np.float32))


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("dump", [joblib.dump, lambda made, path: path.write_bytes(pickle.dumps(made, protocol=0))])
def test_what_a_file_wants_to_run_is_not_run(tmp_path: Path, dump) -> None:
    model = kmeans()
    model.verbose = Bomb(tmp_path / "ran")
    dump(model, tmp_path / "km.bin")
    with pytest.raises(foreign.NotCentroids, match=r"refers to (posix|nt)\.system, which no k-means file needs"):
        foreign.read(tmp_path / "km.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (np.array([["a", "b"]], dtype=object), "k-means|without an array|other than numbers"),
        (np.array([["a", "b"]]), "other than numbers"),
        (np.zeros(3), r"float64 \(3,\); finite floats \[k, d\] are expected"),
        (np.full((2, 2), np.nan), "finite floats"),
        (np.zeros((2, 2), dtype=np.int64), "int64"),
        ({"centers": 3}, "without an array of cluster_centers_"),
        ("words", "without an array of cluster_centers_"),
    ],
)
def test_what_holds_no_centroids_is_refused(tmp_path: Path, made: object, words: str) -> None:
    for name, dump in (("j", joblib.dump), ("p", lambda made, path: path.write_bytes(pickle.dumps(made)))):
        dump(made, tmp_path / name)
        with pytest.raises(foreign.NotCentroids, match=words):
            foreign.read(tmp_path / name)


def test_an_npy_of_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Bomb(tmp_path / "ran")], dtype=object), allow_pickle=True)
    with pytest.raises(foreign.NotCentroids):
        foreign.read(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "km.bin"
    joblib.dump(kmeans(), path)
    return path


@given(at=st.integers(0, 4000), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_refused_or_gives_floats(whole: Path, at: int, value: int, cut: bool) -> None:
    """A flipped byte may change a centroid, but no file ends in another error than NotCentroids."""
    data = bytearray(whole.read_bytes())
    data[at % len(data)] = value
    path = whole.with_name("damaged.bin")
    path.write_bytes(data[: at % len(data)] if cut else data)
    try:
        found = foreign.read(path)
    except foreign.NotCentroids:
        return
    assert found.ndim == 2
    assert np.isfinite(found).all()
