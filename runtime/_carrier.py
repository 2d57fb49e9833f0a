"""What a session carries: a state on its device, moved from call to call by whole steps."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from rnnonnx.errors import RunError

from ._feed import empty_outputs
from ._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._call import Call, Done
    from ._model import Model
    from ._state import Array, State

_KEPT_BATCHES: Final = 4
"""Batch sizes whose buffers are kept when the carrier turns to another."""

_Position: TypeAlias = tuple[Turns, int, int]
"""The carried state: its buffers, which of their two sets holds it, and its steps."""


class Carrier:
    """Carries one state of a model. Every method is one step that no other comes into.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.RLock()
        self._kept: OrderedDict[int | None, Turns] = OrderedDict()
        # NOTE: replaced whole, by one assignment, when a call has succeeded: that is the commit
        self._position: _Position | None = None
        # Whether the state is being changed. The lock lets its own thread in again: a signal
        # handler, which may read the state but would write into what the call is writing.
        self._changing = False
        # The last call, while it can be taken back: until another one writes into the set of
        # buffers that the state was in before.
        self._undo: Done | None = None
        self._undo_lock = threading.RLock()

    @property
    def batch(self) -> int | None:
        """Rows of the state; None where there is no state, or none of it has a batch axis."""
        position = self._position
        return None if position is None else position[0].batch

    @property
    def steps(self) -> int:
        """Steps that the state has been carried."""
        position = self._position
        return 0 if position is None else position[2]

    def state(self) -> State | None:
        """A copy of the state; None before the first call."""
        with self._lock:
            if self._position is None:
                return None
            turns, turn, steps = self._position
            return turns.read(turn, steps)

    def clear(self) -> None:
        """Carry nothing: the next call begins with the initial state for its batch size.

        Raises:
            RunError: A signal handler asks for it within a call of the same thread.
        """
        with self._lock:
            self._refuse_handlers()
            self._changing = True
            try:
                self._forget()
                self._position = None
            finally:
                self._changing = False

    def replace(self, make: Callable[[State | None], State]) -> None:
        """Carry another state from now on.

        Args:
            make: Gives it, of the present one (None where there is none).

        Raises:
            RnnonnxError: What `make` raises, or as for `clear`. Nothing has changed then.
        """
        with self._lock:
            self._refuse_handlers()
            self._changing = True
            try:
                self._forget()
                state = make(self.state())
                turns = self._turns(state.batch)
                position = self._position
                # never over the set that holds the state now: writing may fail
                turn = 1 - position[1] if position is not None and position[0] is turns else 0
                turns.write(turn, state)
                self._position = (turns, turn, state.steps)
            finally:
                self._changing = False

    def again(self, x: Any) -> Array | None:
        """One more call like the last one, of a model with one input and one output.

        The path of every step of a stream. None where this is another call, which is `run`'s.

        Raises:
            RunError: As for `run`.
        """
        with self._lock:
            if self._changing:
                self._refuse_handlers()
            self._changing = True
            try:
                if self._undo is not None:
                    self._forget()
                before = self._position
                if before is None:
                    return None
                turns, turn, steps = before
                again = turns.again
                if again is None:
                    return None
                try:
                    output = again(x, turn)
                except turns.errors:
                    feed = {self._model.manifest.inputs[0].name: x}
                    return cast("Array", self._run_checked(None, feed, None, None, bound=False)[0])
                if output is not None:
                    self._position = (turns, 1 - turn, steps + turns.steps)
                return output
            finally:
                self._changing = False

    def take_back(self, done: Done) -> None:
        """Undo a call that has ended, unless another one has begun from what it left."""
        with self._undo_lock:
            if self._undo is done:
                self._position = done.before
                self._undo = None

    def run(
        self,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        run_options: Any | None,
        call: Call | None = None,
    ) -> list[Any]:
        """One call.

        Args:
            output_names: Outputs to give; None is all.
            feed: The inputs by name.
            run_options: An `onnxruntime.RunOptions`.
            call: Decides at the end whether the call counts.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            RunError: ONNX Runtime failed, or the call was cancelled.
        """
        with self._lock:
            self._refuse_handlers()
            self._changing = True
            try:
                self._forget()
                return self._run(output_names, feed, run_options, call)
            finally:
                self._changing = False

    def _run(
        self,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        run_options: Any | None,
        call: Call | None,
    ) -> list[Any]:
        bound = True
        if self._position is not None:
            turns, turn, steps = self._position
            plan = turns.latest
            if plan is not None and plan.gives(output_names):
                try:
                    outputs = plan.call(feed, turn, run_options)
                except turns.errors:
                    bound = False
                else:
                    if outputs is not None:
                        self._commit((turns, 1 - turn, steps + plan.steps), call)
                        return outputs
        return self._run_checked(output_names, feed, run_options, call, bound=bound)

    def _run_checked(
        self,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        run_options: Any | None,
        call: Call | None,
        *,
        bound: bool,
    ) -> list[Any]:
        """A call whose shapes differ from the last one's, the first one, or one that failed.

        With `bound` false it has failed in memory that was bound beforehand.
        """
        before = self._position
        names = self._model.output_names(output_names)
        batch = None if before is None else before[0].batch
        checked = self._model.check_feed(feed, batch, in_place=True)
        turns, turn, steps = before or self._first(checked.batch)
        if checked.steps == 0:
            outputs: list[Any] = empty_outputs(self._model.manifest, names, checked, turns.batch)
            self._commit((turns, turn, steps), call)
            return outputs
        if checked.handed:
            outputs = turns.step_handed(checked, names, turn, run_options)
        else:
            asked = None if output_names is None else list(output_names)
            outputs = turns.step_checked(checked, names, asked, turn, run_options, bound=bound)
        self._commit((turns, 1 - turn, steps + checked.steps), call)
        return outputs

    def _commit(self, after: _Position, call: Call | None) -> None:
        if call is None:
            self._position = after
        else:
            with call.committing(self._position) as done:
                self._position = after
                self._undo = done

    def _refuse_handlers(self) -> None:
        if self._changing:
            raise RunError(
                "a signal handler cannot change the state of the session that it interrupts",
                remedy="a handler may read the states; let it set a flag for the rest",
            )

    def _forget(self) -> None:
        """The last call can be taken back no more: what it would go back to is written to."""
        with self._undo_lock:
            self._undo = None

    def _first(self, batch: int | None) -> _Position:
        """The initial state for the batch size of a first call; not yet carried."""
        state = self._model.first_state(batch)
        turns = self._turns(state.batch)
        turns.write(0, state)
        return turns, 0, 0

    def _turns(self, batch: int | None) -> Turns:
        """The buffers for a batch size; those of the last few sizes are kept."""
        turns = self._kept.pop(batch, None) or Turns(self._model, batch)
        self._kept[batch] = turns
        if len(self._kept) > _KEPT_BATCHES:
            self._kept.popitem(last=False)
        return turns
