"""Random models: each is exported faithfully, or refused with a reason.

`benchmarks/random_models.py` judges some hundreds of the same models from seeds.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

EXAMPLES = 8  # of each kind
SECONDS = 100.0  # of each kind; the examples that are left then are not looked at


def _load(name):
    """A module beside this file; pytest puts no folder of tests on the path."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


specs, judge = _load("model_specs"), _load("model_judge")


@st.composite
def models(draw, kind):
    """Specs of models; the first of every choice is the simplest."""
    return specs.draw_spec(lambda *values: draw(st.sampled_from(values)), kind)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", specs.KINDS)
# Keras says so of each layer that drops a mask, and drops it.
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
def test_exported_or_refused(kind, tmp_path_factory):
    path = tmp_path_factory.mktemp(kind) / "model.onnx"
    end = time.monotonic() + SECONDS
    verdicts = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(models(kind))
    def run(spec):
        found = bool(verdicts) and not verdicts[-1].ok
        if time.monotonic() > end and not found:
            return
        verdict = judge.judge(spec, path)
        verdicts.append(verdict)
        note(f"{verdict.outcome}: {verdict.reason}")
        assert verdict.ok

    run()
    assert any(verdict.outcome == "exported" for verdict in verdicts)


@pytest.mark.parametrize("seed", range(6))
def test_a_seed_is_a_model(seed):
    assert specs.seeded_spec(seed) == specs.seeded_spec(seed)
    spec = specs.seeded_spec(seed)
    names = {"Spec": specs.Spec, "Part": specs.Part}
    assert eval(repr(spec), names) == spec  # noqa: S307 - our own words


def test_a_wrong_file_is_different(tmp_path):
    """The judge itself: a file of other weights than the model's is found out."""
    spec = specs.Spec("all", (), (specs.Part("GRU", {"units": 3, "return_sequences": True}),))
    path = tmp_path / "model.onnx"
    assert judge.judge(spec, path).outcome == "exported"
    other = specs.Spec("all", (), spec.body, seed=1)
    with pytest.raises(judge.DifferentError, match="off by"):
        judge.Comparison(other, path).run()
