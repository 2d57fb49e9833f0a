"""Random models: each is exported faithfully, or refused with a reason.

`benchmarks/random_models.py` judges some hundreds of the same models from seeds.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from rnnonnx.errors import ArgumentError, ParityError, UnsupportedLayerError

EXAMPLES = 5  # of each kind
# the share of each kind that must be exported: streaming refuses what looks ahead
EXPORTED = {"none": 0.75, "stateful": 0.75, "all": 0.25}


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
        verdict = judge.judge(spec, path)
        verdicts.append(verdict)
        note(f"{verdict.outcome}: {verdict.reason}")
        assert verdict.ok

    run()
    outcomes = [verdict.outcome for verdict in verdicts]
    assert len(outcomes) >= EXAMPLES
    assert outcomes.count("exported") >= EXPORTED[kind] * len(outcomes)


@pytest.mark.parametrize("seed", range(6))
def test_a_seed_is_a_model(seed):
    assert specs.seeded_spec(seed) == specs.seeded_spec(seed)
    spec = specs.seeded_spec(seed)
    names = {"Spec": specs.Spec, "Part": specs.Part}
    assert eval(repr(spec), names) == spec  # noqa: S307 - our own words


@pytest.mark.parametrize(
    "error",
    [
        ArgumentError("no"),
        UnsupportedLayerError("layer 'gru_001': no"),
        UnsupportedLayerError("layer 'gru_001' reads the sequence backwards"),
        UnsupportedLayerError("the model cannot be streamed"),
        ParityError("output 'gru_001' is off by 0.1"),
    ],
)
def test_a_refusal_must_have_a_reason_in_the_model(error, tmp_path, monkeypatch):
    """The judge itself: refusing everything is not passing."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(judge, "export", refuse)
    spec = specs.Spec("all", (), (specs.Part("GRU", {"units": 3}),))
    assert judge.judge(spec, tmp_path / "model.onnx").outcome == "unexpected"


def test_a_refusal_with_its_reason_is_one(tmp_path):
    """The judge itself: what cannot be streamed may be refused."""
    pooled = specs.Part("GRU", {"units": 3, "return_sequences": True})
    spec = specs.Spec("all", (), (pooled, specs.Part("GlobalMaxPooling1D")))
    assert judge.judge(spec, tmp_path / "model.onnx").outcome == "refused"


def test_a_wrong_file_is_different(tmp_path):
    """The judge itself: a file of other weights than the model's is found out."""
    spec = specs.Spec("all", (), (specs.Part("GRU", {"units": 3, "return_sequences": True}),))
    path = tmp_path / "model.onnx"
    assert judge.judge(spec, path).outcome == "exported"
    other = specs.Spec("all", (), spec.body, seed=1)
    with pytest.raises(judge.DifferentError, match="off by"):
        judge.Comparison(other, path).run()
