"""Transforms undo each other, for numpy and torch alike, before and after JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.spatial.transform import Rotation

from s2robot.data.transforms import MatrixToRot6d, Normalise, Rot6dToMatrix, Unnormalise, from_json, to_json
from s2robot.errors import S2RobotError

torch = pytest.importorskip("torch")
SAMPLES = npst.arrays(
    np.float32, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=st.floats(-100, 100, width=32)
)


@given(data=SAMPLES, mode=st.sampled_from(["z_score", "min_max"]))
@settings(deadline=None)
def test_unnormalise_undoes_normalise(data: np.ndarray, mode: str) -> None:
    normalise = Normalise.fit(data, mode)
    for x in (data, torch.from_numpy(data)):
        y = normalise(x)
        assert type(y) is type(x)
        assert y.dtype == x.dtype
        np.testing.assert_allclose(normalise.inverse()(y), x, rtol=1e-4, atol=1e-4)
    assert normalise.inverse().inverse() == normalise


@given(data=SAMPLES)
@settings(deadline=None)
def test_min_max_fills_the_range_from_minus_one_to_one_and_no_more(data: np.ndarray) -> None:
    y = Normalise.fit(data, "min_max")(data.astype(np.float64))
    assert np.abs(y).max() <= 1 + 1e-9
    moved = np.ptp(data, axis=0) >= 2e-2
    np.testing.assert_allclose(np.abs(y[:, moved]).max(axis=0), 1)


def test_z_score_has_mean_zero_and_deviation_one() -> None:
    data = np.random.default_rng(0).normal(3, [1, 10, 0.1], (1000, 3)).astype(np.float32)
    y = Normalise.fit(data)(data.astype(np.float64))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-9)


def test_an_element_that_never_moved_is_not_blown_up() -> None:
    data = np.ones((10, 2), np.float32)
    assert Normalise.fit(data, floor=(0.1, 0.5)).scale == (0.1, 0.5)
    assert np.abs(Normalise.fit(data)(data + np.float32(0.005))).max() < 1


@pytest.mark.parametrize("data", [np.zeros((0, 2)), np.zeros(3), np.array([[np.nan]])])
def test_a_normaliser_is_not_fitted_to_nothing_or_to_nan(data: np.ndarray) -> None:
    with pytest.raises(S2RobotError, match=r"fitted to finite samples \(n, d\)"):
        Normalise.fit(data)


def test_a_wrong_number_of_elements_is_refused_and_never_broadcast() -> None:
    normalise = Normalise((0.0, 1.0), (1.0, 2.0))
    for transform in (normalise, normalise.inverse()):
        with pytest.raises(S2RobotError, match=r"for 2 elements, got an array of shape \(4, 1\)"):
            transform(np.zeros((4, 1)))


@pytest.mark.parametrize("scale", [(0.0,), (-1.0,), (float("nan"),), (float("inf"),), (1.0, 1.0)])
def test_a_scale_that_cannot_be_undone_is_refused(scale: tuple[float, ...]) -> None:
    for cls in (Normalise, Unnormalise):
        with pytest.raises(S2RobotError, match="one positive scale per offset"):
            cls((0.0,), scale)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_a_rotation_survives_its_six_numbers(seed: int) -> None:
    matrix = Rotation.random(4, rng=seed).as_matrix().reshape(2, 2, 3, 3)
    for m in (matrix, torch.from_numpy(matrix)):
        six = MatrixToRot6d()(m)
        assert tuple(six.shape) == (2, 2, 6)
        np.testing.assert_allclose(MatrixToRot6d().inverse()(six), matrix, atol=1e-12)


def test_the_six_numbers_are_the_first_two_columns() -> None:
    six = MatrixToRot6d()(np.arange(9.0).reshape(3, 3))
    assert six.tolist() == [0, 3, 6, 1, 4, 7]


@given(six=npst.arrays(np.float64, (6,), elements=st.floats(-1, 1)))
@settings(deadline=None)
def test_any_six_numbers_that_span_a_plane_give_a_rotation(six: np.ndarray) -> None:
    if np.linalg.norm(np.cross(six[:3], six[3:])) < 1e-3:
        return
    matrix = Rot6dToMatrix()(six)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) > 0.99


@pytest.mark.parametrize("shape", [(3,), (2, 3), (3, 4)])
def test_wrong_rotation_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(S2RobotError, match=r"has shape \(\.\.\., 3, 3\), got"):
        MatrixToRot6d()(np.zeros(shape))
    with pytest.raises(S2RobotError, match=r"has shape \(\.\.\., 6\), got"):
        Rot6dToMatrix()(np.zeros(shape))


@pytest.mark.parametrize(
    "transform",
    [Normalise.fit(np.random.default_rng(1).normal(size=(9, 4))), Unnormalise((0.1,), (1 / 3,)), MatrixToRot6d()],
)
def test_a_transform_is_the_same_after_json(transform) -> None:
    assert from_json(json.loads(json.dumps(to_json(transform)))) == transform
    assert from_json(to_json(transform.inverse())) == transform.inverse()


def test_unknown_transforms_and_fields_are_refused() -> None:
    with pytest.raises(S2RobotError, match=r"unknown transform 'Normalize'; known: .*; did you mean 'Normalise'"):
        from_json({"transform": "Normalize"})
    with pytest.raises(S2RobotError, match="transform Normalise does not parse"):
        from_json({"transform": "Normalise", "mean": [0.0]})


def test_transforms_need_neither_torch_nor_zarr() -> None:
    code = "import sys, s2robot.data.transforms as t; assert not {'torch', 'zarr', 'fsspec'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
