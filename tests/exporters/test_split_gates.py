"""Hand-written cells that split their products into gates and add them, as an LSTM is written."""

from __future__ import annotations

import keras
import pytest
from keras import ops

UNITS = 4


@keras.saving.register_keras_serializable("test_split_gates")
class Cell(keras.layers.Layer):
    """A cell of two gates; how they come about is said by `form`."""

    def __init__(self, form, **options):
        super().__init__(**options)
        self.form = form
        self.state_size = self.output_size = 32 if form == "heads" else UNITS

    def build(self, shape):
        width = UNITS if self.form == "heads" else shape[-1]
        self.kernel = self.add_weight(shape=(width, 2 * UNITS), name="kernel")
        self.recurrent = self.add_weight(shape=(UNITS, 2 * UNITS), name="recurrent")

    def call(self, inputs, states):
        [state] = states
        return getattr(self, self.form)(inputs, state)

    def plain(self, inputs, state):
        z = ops.split(inputs @ self.kernel, 2, axis=-1)
        u = ops.split(state @ self.recurrent, 2, axis=-1)
        gates = [a + b for a, b in zip(z, u, strict=True)]
        state = ops.tanh(gates[0]) * ops.sigmoid(gates[1])
        return state, [state]

    def used_again(self, inputs, state):
        a, b = ops.split(ops.tanh(state + inputs) @ self.kernel, [UNITS], axis=-1)
        c, d = ops.split(state @ self.recurrent, [UNITS], axis=-1)
        state = ops.tanh(a + c) * ops.sigmoid(b + d) + a
        return state, [state]

    def heads(self, inputs, state):
        each = ops.reshape(state, (-1, 8, UNITS))
        given = ops.tanh(each + ops.reshape(inputs, (-1, 8, UNITS)))
        a, b = ops.split(ops.matmul(given, self.kernel), [UNITS], axis=-1)
        c, d = ops.split(ops.matmul(each, self.recurrent), [UNITS], axis=-1)
        state = ops.reshape(ops.tanh(a + c) * ops.sigmoid(b + d), (-1, 32))
        return state, [state]


@pytest.mark.parametrize(("form", "features"), [("plain", 3), ("used_again", UNITS), ("heads", 32)])
def test_gates_by_split(form, features, tmp_path):
    from rnnonnx.exporters import export

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((None, features)), keras.layers.RNN(Cell(form), return_sequences=True)]
    )
    report = export(model, tmp_path / "model.onnx", states="all")
    assert report.parity.max_abs < 1e-5


def test_a_pass_that_fails_is_an_error_of_the_tree(tmp_path, monkeypatch):
    from rnnonnx.errors import ExportError
    from rnnonnx.exporters import _finish, export

    class Broken(_finish.ViewsPass):
        def call(self, _model):
            raise IndexError("tuple index out of range")

    monkeypatch.setattr(_finish, "ViewsPass", Broken)
    model = keras.Sequential([keras.Input((None, 2)), keras.layers.GRU(2)], name="small")
    with pytest.raises(ExportError, match=r"'small' cannot be exported.*IndexError: tuple index"):
        export(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_sums_of_merged_convolutions_with_another_reader_stay(tmp_path):
    """The parts of a merged convolution that more than their sum reads are not added before."""
    from rnnonnx.exporters import export

    @keras.saving.register_keras_serializable("test_split_gates")
    class ConvCell(keras.layers.Layer):
        state_size = (6, UNITS)

        def build(self, shape):
            self.kernels = [
                self.add_weight(shape=(3, width, UNITS), name=f"k{number}")
                for number, width in enumerate((shape[-1], shape[-1], UNITS, UNITS))
            ]

        def call(self, inputs, states):
            [state] = states
            x = [ops.conv(inputs, kernel, padding="same") for kernel in self.kernels[:2]]
            h = [ops.conv(state, kernel, padding="same") for kernel in self.kernels[2:]]
            state = ops.tanh(x[0] + h[0]) * ops.sigmoid(x[1] + h[1]) + h[0]
            return state, [state]

        def get_initial_state(self, batch_size=None):
            return [ops.zeros((batch_size, *self.state_size))]

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((None, 6, 2)), keras.layers.RNN(ConvCell(), return_sequences=True)]
    )
    report = export(model, tmp_path / "model.onnx", states="none")
    assert report.parity.max_abs < 1e-5
