"""The demo's data and model: a GRU that forecasts the weekly CO2 of Mauna Loa."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from rnnonnx._extras import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._streams import Array

HORIZON: Final = 12
"""Weeks ahead: a quarter of the yearly swing, which the last value alone cannot tell."""

UNITS: Final = 32
_WINDOW: Final = 156  # three years: a training window sees the season three times
_STRIDE: Final = 3
_TRAIN_SHARE: Final = 0.75


@dataclass(frozen=True, slots=True)
class Series:
    """The series, and what the model sees of it.

    Attributes:
        dates: Week by week, of shape [weeks].
        ppm: CO2 in ppm, float64 of shape [weeks], gaps interpolated.
        inputs: Weekly change in units of its spread, float32 of shape [1, weeks, 1].
        scale: ppm in one unit of the model's output.
        split: First week that training has not seen, neither as input nor as target.
    """

    dates: Any
    ppm: Array
    inputs: Array
    scale: float
    split: int

    def forecast(self, outputs: Array) -> Array:
        """The model's outputs [1, weeks, 1] as ppm `HORIZON` weeks on, of shape [weeks]."""
        return np.asarray(self.ppm + outputs[0, :, 0] * self.scale)


def load_series() -> Series:
    """The weekly CO2 series that statsmodels ships.

    Raises:
        MissingExtraError: statsmodels is not installed.
    """
    co2 = require("statsmodels.datasets.co2", extra="demo", purpose="the demo")
    frame = co2.load_pandas().data.interpolate()
    ppm = frame["co2"].to_numpy(dtype=np.float64)
    split = int(len(ppm) * _TRAIN_SHARE)
    change = np.diff(ppm, prepend=ppm[0])
    # Statistics of the training part alone: the test part must not shape what the model sees.
    scaled = (change - change[:split].mean()) / change[:split].std()
    return Series(
        dates=frame.index.to_numpy(),
        ppm=ppm,
        inputs=scaled.astype(np.float32)[None, :, None],
        scale=float(np.std(ppm[HORIZON:split] - ppm[: split - HORIZON])),
        split=split,
    )


def build() -> Any:
    """The untrained Keras model: `GRU(32)` over any length, `Dense(1)` at each step."""
    import keras

    return keras.Sequential(
        [
            keras.Input((None, 1), name="change"),
            keras.layers.GRU(UNITS, return_sequences=True, name="gru"),
            keras.layers.Dense(1, name="forecast"),
        ],
        name="co2",
    )


def train(series: Series, *, epochs: int, on_epoch: Callable[[int, float], None]) -> Any:
    """Train the model on windows of the training part.

    Args:
        series: The data.
        epochs: How often each window is seen.
        on_epoch: Called with the number of epochs done and the loss.

    Returns:
        The trained Keras model.
    """
    import keras

    target = (series.ppm[HORIZON:] - series.ppm[:-HORIZON]) / series.scale
    # The last target of the last window lies before the split.
    starts = range(0, series.split - HORIZON - _WINDOW, _STRIDE)
    x = np.stack([series.inputs[0, start : start + _WINDOW] for start in starts])
    y = np.stack([target[start : start + _WINDOW, None] for start in starts]).astype(np.float32)
    model = build()
    model.compile(optimizer=keras.optimizers.Adam(_rate(epochs)), loss="mse")
    tell = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: on_epoch(epoch + 1, logs["loss"])
    )
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=[tell])
    return model


def _rate(epochs: int) -> Any:
    import keras

    return keras.optimizers.schedules.CosineDecay(1e-2, decay_steps=16 * epochs)
