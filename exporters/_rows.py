"""Whether the state in a variable is one for each row of the batch, or one for all rows.

A variable of a layer that is no RNN says nothing of that but its size. Where that is the
batch that the model was built for, it may be the number of features as well. So both are
tried at other batch sizes: what is right runs, and has the same shape after a call as before.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import UnsupportedLayerError

from ._layer_variables import built_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ._layers import LayerEntry
    from ._prober import Prober
    from ._states import LiftedState

_ATTEMPTS = 16  # each is a trace


def settle_rows(
    doubtful: Sequence[tuple[LayerEntry, Any]],
    lift: Callable[[Sequence[Any]], tuple[LiftedState, ...]],
    probe: Callable[[tuple[LiftedState, ...]], Prober],
) -> tuple[LiftedState, ...]:
    """Lift the states of a model some of whose variables may have a row for each of the batch.

    What runs either way is shared, as the variable is in Keras.

    Args:
        doubtful: Layer and variable of each that may.
        lift: What is lifted if these variables have rows.
        probe: Keras with these states lifted.

    Raises:
        UnsupportedLayerError: It cannot be told, or the rows of a variable differ.
    """
    sizes = {built_batch(entry) for entry, _ in doubtful}
    unlike: UnsupportedLayerError | None = None
    failure = ""
    # none has rows, all have, and then what is between
    choices = itertools.product([False, True], repeat=len(doubtful))
    ordered = sorted(choices, key=lambda choice: (any(choice) and not all(choice), any(choice)))
    for choice in ordered[:_ATTEMPTS]:
        try:
            lifted = lift([v for (_, v), rows in zip(doubtful, choice, strict=True) if rows])
        except UnsupportedLayerError as error:
            unlike = error
            continue
        try:
            prober = probe(lifted)
            base = prober.base()
        except UnsupportedLayerError as error:
            failure = error.message
            continue
        other = next(size for size in itertools.count(prober.batch + 1) if size not in sizes)
        if prober.dynamic_batch and prober.keeps_states(base, other):
            return lifted
    if unlike is not None:
        raise unlike
    entry, variable = doubtful[0]
    raise UnsupportedLayerError(
        f"layer {entry.path!r}: whether its state {variable.name!r} is one for each row of the "
        "batch or one for all rows cannot be told: the model runs at no other batch size than "
        "the one that it was built for",
        expected=f"a model that runs at other batch sizes than {built_batch(entry)}",
        received=failure or "one that does not keep the shape of its state there",
        remedy="build the model with a batch size that is not the size of anything else, as "
        "keras.Input(batch_shape=(7, ...)), and so that it runs at others; if it needs other "
        "data than random, pass sample_inputs=",
    )
