"""StatefulSession: a model and the state that it carries from call to call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnnonnx.errors import InputError, ProviderError, StateError, StateFileError

from ._call import Call
from ._carrier import Carrier
from ._feed import named_inputs
from ._map_states import map_values
from ._model import Model
from ._onnxruntime import onnxruntime
from ._state_blob import dump_state, load_state
from ._state_file import read_state_file, write_state_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rnnonnx.manifest import Manifest

    from ._onnxruntime import Source
    from ._placement import NodePlacement
    from ._providers import Providers
    from ._state import Array, State


class StatefulSession:
    """Runs a model and carries its recurrent state from call to call.

    It serves two habits: ONNX Runtime's (`run`, `get_inputs`, `get_outputs`,
    `get_providers`, without the states) and Keras's (`session(x)`, `reset_states`, `states`).
    After any error the state is as it was before the call.

    The first call fixes the batch size; `reset_states()` releases it. The state stays on the
    device of the model's first provider, in two sets of buffers that calls read and write by
    turns; `get_states` and the like copy it.

    Threads may share a session: every method is one step that no other comes into. For streams
    that are independent of each other give each a session of its own over one `Model`.

    Args:
        model: Path to an ONNX file, its bytes, or a `Model`.
        providers: As in `Model.load`.
        session_options: As in `Model.load`.

    Raises:
        RnnonnxError: As `Model.load` does; ProviderError also where `providers` or
            `session_options` come with a `Model`, which has its own.
    """

    def __init__(
        self,
        model: Source | Model,
        *,
        providers: Providers = None,
        session_options: Any | None = None,
    ) -> None:
        if not isinstance(model, Model):
            model = Model.load(model, providers=providers, session_options=session_options)
        elif providers is not None or session_options is not None:
            raise ProviderError(
                "a loaded Model has its providers and options already",
                remedy="give them to Model.load",
            )
        self._model = model
        self._carrier = Carrier(model)
        self._again = self._carrier.again
        self.reset_states()

    @property
    def model(self) -> Model:
        """The model, to share with other sessions."""
        return self._model

    @property
    def manifest(self) -> Manifest:
        """What the file says of its inputs, outputs and states."""
        return self._model.manifest

    @property
    def batch_size(self) -> int | None:
        """Rows of the state.

        None before the first call, unless the file fixes it, and None always for a model
        none of whose states has a batch axis: its calls may vary in size.
        """
        return self._carrier.batch

    @property
    def steps(self) -> int:
        """Time steps carried since the states were last reset or set.

        A time step is one position along the time axis of the first input that has one;
        where no input has one, a call. Resetting some rows does not change the count;
        `load_states` restores the file's.
        """
        return self._carrier.steps

    @property
    def states(self) -> list[Array] | None:
        """Copies of the states in Keras's order (`[h, c]`), as `layer.states` has them.

        None before the first call, while the batch size is open.
        """
        state = self._carrier.state()
        return None if state is None else list(state.copies().values())

    def get_inputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each input that is no state, in Keras's order."""
        return self._model.get_inputs()

    def get_outputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each output that is no state, in Keras's order."""
        return self._model.get_outputs()

    def get_providers(self) -> list[str]:
        """The execution providers that the model runs on, in order of precedence."""
        return self._model.get_providers()

    def placement(self) -> tuple[NodePlacement, ...]:
        """Which execution provider runs each node; as `Model.placement`.

        Raises:
            ProviderError: As `Model.placement` does.
        """
        return self._model.placement()

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any | None = None,
    ) -> list[Any]:
        """Run the model from the carried state, as `onnxruntime.InferenceSession.run` does.

        Args:
            output_names: Outputs to give, in this order; None is all, in Keras's order.
            input_feed: One array an input, by name, in the manifest's dtypes and shapes.
                A chunk may have any number of time steps; one of none gives outputs of none.
                An `onnxruntime.OrtValue`, or a DLPack tensor on the session's GPU, is read
                where it lies.
            run_options: An `onnxruntime.RunOptions`. Where CUDA graphs are on, its entry
                `gpu_graph_id` is set.

        Returns:
            One array an output; an `OrtValue` each, on the session's device, where an input
            was given as one or on a GPU.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            RunError: ONNX Runtime failed.
        """
        options = onnxruntime().RunOptions
        if run_options is not None and not isinstance(run_options, options):
            raise InputError(
                "`run_options` are none of ONNX Runtime's",
                expected="an onnxruntime.RunOptions, or None",
                received=type(run_options).__name__,
            )
        return self._carrier.run(output_names, input_feed, run_options)

    def __call__(self, x: Any) -> Any:
        """Run the model from the carried state, as a Keras model is called.

        Args:
            x: The input; for several, a list in Keras's order or a dict by name.

        Returns:
            The output; a list in Keras's order where the model has several.

        Raises:
            InputError: A name, number, dtype, rank or size is wrong.
            RunError: ONNX Runtime failed.
        """
        output = self._again(x)
        if output is not None:
            return output
        outputs = self._carrier.run(None, named_inputs(self.manifest, x), None)
        return outputs[0] if len(outputs) == 1 else outputs

    def stream(self, chunks: Iterable[Any]) -> Iterator[Any]:
        """Run chunk after chunk, giving each result before the next chunk is taken.

        Nothing is kept but the state, so the sequence may be of any length. Other calls may
        come between two chunks. What a failing chunk raises ends the iteration; the state is
        then as the last good chunk left it.

        Args:
            chunks: What `session(x)` takes, one after the other.

        Yields:
            What `session(x)` gives.
        """
        for chunk in chunks:
            yield self(chunk)

    async def arun(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]
    ) -> list[Any]:
        """`run` for asyncio: the event loop goes on while the model runs in a thread.

        Await one call before the next: calls that wait at the same time run one after the
        other, but in no promised order. The arrays must not change meanwhile.

        A cancelled call ends ONNX Runtime's run between two nodes, and leaves the state as it
        was before the call; unless another call had begun where it ended.

        Args:
            output_names: As in `run`.
            input_feed: As in `run`.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            RunError: ONNX Runtime failed.
        """
        import asyncio  # here, since it takes longer to import than all the rest of the runtime

        call = Call()
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(
            None, self._carrier.run, output_names, input_feed, call.run_options, call
        )
        try:
            return await work
        except (asyncio.CancelledError, GeneratorExit):
            done = call.cancel()
            if done is not None:  # it had ended, but nobody has had its result
                self._carrier.take_back(done)
            raise

    def reset_states(self, rows: Iterable[int] | None = None) -> None:
        """Put the states back to their initial values.

        Args:
            rows: Indices of the rows of the batch to reset, each once; the others go on.
                None resets the whole state and releases the batch size.

        Raises:
            StateError: An index is out of range, negative or named twice; there is no state
                yet; or a state is shared by all rows, so that no row of it can be reset.
        """
        if rows is not None:
            self._carrier.replace(lambda state: _there(state, "reset rows of").reset_rows(rows))
        elif self._model.pinned_batch is None and self._model.has_batch:
            self._carrier.clear()
        else:
            self._carrier.replace(lambda _: self._model.initial_state())

    def get_states(self) -> dict[str, Array]:
        """Copies of the states by name, in Keras's order, each `[batch, ...]`.

        Raises:
            StateError: There is no state before the first call, while the batch size is open.
        """
        return _there(self._carrier.state(), "get").copies()

    def set_states(
        self,
        states: Mapping[str, Array],
        *,
        map_states: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take over these states, copied, and count steps from 0.

        Before the first call this fixes the batch size.

        Args:
            states: One array for every state, by name, each `[batch, ...]` as the manifest
                has it.
            map_states: For states under another model's names, an encoder's for its decoder:
                this model's names by those, or None for one to drop
                (`{"encoder.h": "decoder.h"}`). It names every state of both.

        Raises:
            StateError: Names are missing or left over, a dtype or shape is wrong, or the batch
                size is not the session's. Nothing has changed then.
        """
        if map_states is not None:
            states = map_values(states, map_states, self.manifest.states)
        state = self._model.state_from(states)
        self._carry(state, StateError)

    def snapshot(self) -> bytes:
        """The states and the step count as bytes, what `save_states` writes.

        Any session of the same model can go on from them, in any process and on any device.

        Raises:
            StateError: There is no state before the first call.
        """
        return dump_state(_there(self._carrier.state(), "take a snapshot of"), self.manifest)

    def restore(
        self,
        snapshot: bytes | bytearray | memoryview,
        *,
        map_states: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take over the states and the step count of a snapshot.

        Args:
            snapshot: What `snapshot` gave, here or elsewhere, or the content of a state file.
            map_states: As in `set_states`. With it a snapshot of another model is accepted.

        Raises:
            StateFileError: The snapshot is damaged, of another model or a newer format, of
                many streams, of another batch size than the session's, or does not fit with
                `map_states`. Nothing has changed then.
        """
        self._take_over(snapshot, map_states, "the snapshot")

    def save_states(self, path: str | os.PathLike[str]) -> None:
        """Write the states to a safetensors file, whole or not at all.

        Raises:
            StateError: There is no state before the first call.
            StateFileError: The file cannot be written.
        """
        write_state_file(path, dump_state(_there(self._carrier.state(), "save"), self.manifest))

    def load_states(
        self,
        path: str | os.PathLike[str],
        *,
        map_states: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take over the states and the step count that `save_states` wrote.

        Args:
            path: The file.
            map_states: As in `set_states`. With it a file of another model is accepted.

        Raises:
            StateFileError: The file is missing, or `restore` refuses what is in it. Nothing
                has changed then.
        """
        self._take_over(read_state_file(path), map_states, f"the state file {str(path)!r}")

    def __reduce__(self) -> Any:
        # NOTE: of copy and pickle alike: a copy would share the buffers, and each step both
        raise StateError(
            "a session cannot be copied or pickled",
            remedy="StatefulSession(session.model), and restore(session.snapshot())",
        )

    def _take_over(
        self,
        data: bytes | bytearray | memoryview,
        map_states: Mapping[str, str | None] | None,
        what: str,
    ) -> None:
        state = load_state(data, self.manifest, map_states=map_states, what=what)
        try:
            self._model.check_state(state)
        except StateError as error:
            raise StateFileError(
                f"{what} does not fit: {error.message}",
                expected=error.expected,
                received=error.received,
            ) from error
        self._carry(state, StateFileError)

    def _carry(self, state: State, error: type[StateError]) -> None:
        """Carry this state, if it is of the batch size that the session has."""

        def same_batch(before: State | None) -> State:
            if before is not None and before.batch != state.batch:
                raise error(
                    "the states have another batch size than the session",
                    expected=f"{before.batch} rows",
                    received=f"{state.batch} rows",
                    remedy="reset_states() releases the batch size",
                )
            return state

        self._carrier.replace(same_batch)


def _there(state: State | None, what: str) -> State:
    if state is None:
        raise StateError(
            f"there is no state to {what} yet: the first call fixes the batch size",
            remedy="run a step first, or set_states",
        )
    return state
