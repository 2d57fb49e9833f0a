"""`rnnonnx.testing` as a user has it: the plugin as it is installed, the function, strategies."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from rnnonnx import InputError, MissingExtraError, ParityError
from rnnonnx.testing import MASK_KINDS, ParityAssertionError, assert_parity, masks, sequences

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(pytester, monkeypatch):
    """The project's entry points as a wheel installs them, for whatever is there otherwise."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    folder = pytester.path / "site" / "rnnonnx-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: rnnonnx\nVersion: 0\n")
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["pytest11"].items()]
    (folder / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]))
    monkeypatch.setenv("PYTHONPATH", f"{folder.parent}:{ROOT}")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return pytester


def test_the_fixture_is_there_once_it_is_installed(installed, stack, spoiled):
    stack.save(installed.path / "stack.keras")
    installed.makepyfile(
        f"""
        def test_wrong(assert_parity):
            assert_parity("stack.keras", {str(spoiled)!r}, calls=2)
        """
    )
    result = installed.runpytest_subprocess("-p", "no:cacheprovider", timeout=120)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ParityAssertionError: 'stack' departs from Keras: * tensors are beyond *",
            "E *engine *tensor *max abs *where*",
            "E *rnnonnx *state second.c *",
            "E *first departs in layer 'second', call 1, step *",
            "E *second/B (bias, gate f)*",
        ]
    )
    assert "testing/_parity.py" not in result.stdout.str()  # its own frame is left out


def test_a_run_that_does_not_use_it_pays_nothing(installed):
    installed.makepyfile(
        """
        import sys

        def test_nothing_is_loaded(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("rnnonnx")
            heavy = {"tensorflow", "keras", "onnx", "onnxruntime", "torch", "hypothesis"}
            assert not heavy & set(sys.modules)
        """
    )
    done = installed.runpytest_subprocess("-p", "no:hypothesispytest", timeout=60)
    done.assert_outcomes(passed=1)


def test_importing_the_helpers_loads_nothing_of_what_they_need():
    code = "import sys, rnnonnx.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "keras", "onnx", "onnxruntime", "torch", "hypothesis", "pytest"}
    assert not heavy & set(done.stdout.split())


def test_the_function(stack, file, spoiled):
    assert assert_parity(stack, file, calls=1).ok
    with pytest.raises(ParityAssertionError, match="first departs in layer 'second'") as caught:
        assert_parity(stack, spoiled, calls=1, steps=50)
    error = caught.value
    assert isinstance(error, AssertionError)
    assert isinstance(error, ParityError)
    assert not error.report.ok
    worst = max(error.report.errors, key=lambda e: e.max_abs)
    lines = str(error).splitlines()
    # the worst first, whatever it is of
    assert f"{max(worst.max_abs, error.report.max_abs):.2e}" in lines[2]


@settings(max_examples=30, deadline=None)
@given(sequences(3, batch=(1, 3), steps=(2, 5)))
def test_sequences_of_floats(value):
    assert value.dtype == np.float32
    assert 1 <= value.shape[0] <= 3
    assert 2 <= value.shape[1] <= 5
    assert value.shape[2:] == (3,)
    assert np.abs(value).max() <= 3


@settings(max_examples=20, deadline=None)
@given(
    sequences(batch=2, steps=4, dtype="int32", below=9),
    sequences((2, 3), batch=1, steps=2, dtype="float16"),
    sequences(dtype="bool"),
)
def test_sequences_of_other_dtypes(tokens, images, flags):
    assert (tokens.shape, tokens.dtype) == ((2, 4), np.int32)
    assert tokens.min() >= 0
    assert tokens.max() < 9
    assert (images.shape, images.dtype) == ((1, 2, 2, 3), np.float16)
    assert flags.dtype == bool


@settings(max_examples=20, deadline=None)
@given(
    sequences(batch=2, steps=4, below=9),
    sequences(3, dtype="float16", bound=65504),
    sequences(3, dtype="float16", bound=2.0**-14),
    sequences(1, dtype="float64", bound=1e-50),
)
def test_sequences_at_the_edge_of_a_dtype(tokens, large, small, tiny):
    assert tokens.dtype == np.float32
    assert set(tokens.ravel().tolist()) <= set(range(9))
    assert np.isfinite(large).all()
    assert np.abs(small).max() <= 2.0**-14
    assert np.abs(tiny).max() <= 1e-50


def test_the_bound_itself_is_drawn():
    quiet = settings(max_examples=5000, suppress_health_check=list(HealthCheck), database=None)
    find(sequences(1, batch=1, steps=1), lambda value: value.max() == 3, settings=quiet)
    # 0.1 lies between two numbers of float32: the lower one is the largest
    assert (
        find(sequences(batch=1, steps=1, bound=0.1), lambda v: v.max() > 0.09, settings=quiet) < 0.1
    )


def of_kind(row, kind):
    """Whether a row of a mask is of a kind."""
    rises = int(np.sum(~row[:-1] & row[1:]))
    falls = int(np.sum(row[:-1] & ~row[1:]))
    return {
        "right": rises == 0,
        "left": falls == 0,
        "gaps": True,
        "empty": not row.any(),
        "full": bool(row.all()),
    }[kind]


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_of_one_kind(kind, data):
    mask = data.draw(masks((1, 3), (1, 6), kinds=[kind]))
    assert mask.dtype == bool
    assert 1 <= mask.shape[0] <= 3
    assert 1 <= mask.shape[1] <= 6
    assert all(of_kind(row, kind) for row in mask)


@pytest.mark.parametrize(
    "wanted",
    [
        lambda mask: not mask[0].any() and mask[1].all(),  # no step valid, beside all valid
        lambda mask: mask[0].tolist() == [True, False, True, False],  # gaps
        lambda mask: mask[0].tolist() == [False, False, True, True],  # left padded
        lambda mask: mask[0].tolist() == [True, True, False, False],  # right padded
    ],
)
def test_masks_have_every_kind(wanted):
    shape = {"batch": 2, "steps": 4}
    quiet = settings(max_examples=5000, suppress_health_check=list(HealthCheck), database=None)
    find(masks(**shape), wanted, settings=quiet)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sequences(0),
        lambda: sequences(2.5),
        lambda: sequences("3"),
        lambda: sequences(True),
        lambda: sequences((2, 0)),
        lambda: sequences((2, 1.5)),
        lambda: sequences(3, batch=0),
        lambda: sequences(3, steps=(4, 2)),
        lambda: sequences(3, steps=1.5),
        lambda: sequences(3, dtype="float99"),
        lambda: sequences(3, dtype="complex64"),
        lambda: sequences(3, bound=-1.0),
        lambda: sequences(dtype="int8", below=1000),
        lambda: sequences(dtype="int8", below=0),
        lambda: sequences(dtype="int8", below=2.0),
        lambda: sequences(dtype="bool", below=1),
        lambda: sequences(dtype="float16", below=5000),
        lambda: sequences(3, bound=1e-50),
        lambda: sequences(3, bound=1e39),
        lambda: sequences(3, bound="2"),
        lambda: sequences(3, bound=float("nan")),
        lambda: sequences(3, dtype="float16", bound=1e9),
        lambda: sequences(3, dtype="float16", bound=2.0**-15),
        lambda: sequences(3, dtype="f4, f4"),
        lambda: masks(kinds=["sideways"]),
        lambda: masks(kinds=[]),
        lambda: masks(batch=(1, 2, 3)),
    ],
)
def test_arguments_that_make_no_strategy(make):
    with pytest.raises(InputError):
        make()


def test_strategies_need_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis.strategies", None)
    with pytest.raises(MissingExtraError, match="hypothesis") as caught:
        masks()
    assert caught.value.remedy == 'pip install "rnnonnx[testing]"'
