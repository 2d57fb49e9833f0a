"""The registry: duplicates are refused, the newest lowering that the opset allows wins."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from rnnonnx.exporters._registry import Registry, load_lowerings, qualified_name


class Layer:
    pass


KEY = qualified_name(Layer)


def test_duplicates_are_refused():
    registry = Registry()
    registry.register(KEY, seam="layer", since_opset=14)(lambda: None)
    with pytest.raises(ValueError, match="already has a lowering of its layer since opset 14"):
        registry.register(KEY, seam="layer", since_opset=14)(lambda: None)


def test_a_class_may_have_a_lowering_at_each_seam():
    registry = Registry()
    made = {}
    for seam in ("layer", "cell", "rewrite"):
        made[seam] = registry.register(KEY, seam=seam, since_opset=14)(lambda: None)
    assert {seam: registry.find(Layer, seam, 18).function for seam in made} == made


def test_the_newest_that_is_not_above_the_opset_wins():
    registry = Registry()
    for opset in (14, 17):
        registry.register(KEY, seam="layer", since_opset=opset)(lambda: None)
    found = {opset: registry.find(Layer, "layer", opset) for opset in (13, 14, 16, 17, 18)}
    assert found[13] is None
    assert [found[opset].since_opset for opset in (14, 16, 17, 18)] == [14, 14, 17, 17]
    assert registry.find(Layer, "cell", 18) is None


def test_subclasses_do_not_match():
    registry = Registry()
    registry.register(KEY, seam="layer", since_opset=14)(lambda: None)
    assert registry.find(type("Other", (Layer,), {}), "layer", 18) is None


def test_every_module_of_lowerings_registers_and_every_key_is_a_keras_class():
    from rnnonnx.exporters import lowerings
    from rnnonnx.exporters.legacy import _time_distributed

    folder = Path(lowerings.__file__).parent
    files = {path.stem for path in folder.glob("[a-z]*.py")}
    functions = [lowering.function for lowering in load_lowerings()]
    assert {function.__module__.rpartition(".")[2] for function in functions} == files
    known = {qualified_name(cls) for cls in vars(keras.layers).values() if isinstance(cls, type)}
    # and one that takes the place of Keras's in old models
    known.add(qualified_name(_time_distributed.TimeDistributed))
    assert {lowering.key for lowering in load_lowerings()} <= known
