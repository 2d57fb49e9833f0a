"""The model: an immutable pair of graph and manifest, and the pure step from state to state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import InputError, RunError, StateError

from ._auto import PassedOver, open_where
from ._feed import check_feed, empty_outputs
from ._fit import manifest_of, pinned_batch
from ._onnxruntime import (
    FATAL,
    Source,
    describe,
    onnxruntime,
    open_session,
    ort_errors,
)
from ._placement import NodePlacement, placement_of
from ._state import Array, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rnnonnx.manifest import Manifest

    from ._providers import Providers


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded ONNX file. Any number of sessions and threads can share it.

    Make one with `Model.load`.

    Attributes:
        manifest: What the file says of its inputs, outputs and states.
        pinned_batch: The batch size that the file fixes; None where any will do.
        passed_over: Providers that `providers="auto"` prefers to those of `get_providers()`,
            each with the reason why it cannot start; empty without `auto`.
    """

    manifest: Manifest
    pinned_batch: int | None
    _session: Any = field(repr=False)
    passed_over: tuple[PassedOver, ...] = ()

    @classmethod
    def load(
        cls,
        model: Source,
        *,
        providers: Providers = None,
        session_options: Any | None = None,
    ) -> Model:
        """Load a file that carries a manifest.

        Args:
            model: Path to an ONNX file, or its bytes.
            providers: Execution providers, names or `(name, options)`, in order of
                precedence. None is the CPU alone; ONNX Runtime adds the CPU for the nodes
                that the others do not take. `"auto"` is CUDA where it starts, else the CPU;
                `get_providers()` and `passed_over` tell the choice.
            session_options: An `onnxruntime.SessionOptions`, used as it is. None is fit for
                many small calls: one thread, which sleeps between them.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            ModelFileError: The file is missing, damaged or no ONNX model.
            MissingManifestError: The file carries no manifest.
            ManifestError: The manifest is malformed or does not fit the graph.
            ProviderError: A provider is not available.
        """
        opened = open_where(model, providers=providers, session_options=session_options)
        session = opened.session
        manifest = manifest_of(session, describe(model))
        return cls(manifest, pinned_batch(manifest, session), session, opened.passed_over)

    def get_inputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each input that is no state, in Keras's order."""
        args = {arg.name: arg for arg in self._session.get_inputs()}
        return [args[tensor.name] for tensor in self.manifest.inputs]

    def get_outputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each output that is no state, in Keras's order."""
        args = {arg.name: arg for arg in self._session.get_outputs()}
        return [args[tensor.name] for tensor in self.manifest.outputs]

    def get_providers(self) -> list[str]:
        """The execution providers that the model runs on, in order of precedence."""
        return list(self._session.get_providers())

    def placement(self) -> tuple[NodePlacement, ...]:
        """Which execution provider runs each node, as ONNX Runtime decided at load.

        Raises:
            ProviderError: The model was loaded with session options that do not record it, or
                ONNX Runtime is older than 1.24. The error names the remedy.
        """
        return placement_of(self._session)

    def initial_state(self, batch: int | None = None) -> State:
        """The state before the first step.

        Args:
            batch: Rows. May be left out where the file fixes it, or where no state has a
                batch axis.

        Raises:
            StateError: `batch` is below 1, or not the size that the file fixes.
        """
        if batch is None:
            batch = self.pinned_batch
        state = State.initial(self.manifest.states, batch)
        self.check_state(state)
        return state

    def state_from(self, values: Mapping[str, Array]) -> State:
        """A state with these values, copied; its step count is 0.

        Args:
            values: One array a state, by name; `[batch, ...]` as the manifest has it.

        Raises:
            StateError: Names are missing or left over, or a dtype, shape or batch size is
                wrong.
        """
        # checked before it is copied, and copied so that the caller's arrays stay the caller's
        checked = State(self.manifest.states, values)
        self.check_state(checked)
        return State(self.manifest.states, checked.copies())

    def check_state(self, state: State) -> None:
        """Raise StateError unless `state` is one of this model's."""
        mine = self.manifest.states
        if state.layout is not mine and state.layout != mine:
            raise StateError(
                "the state belongs to a model with other states",
                expected=[item.name for item in mine],
                received=[item.name for item in state.layout],
                remedy="Model.state_from(values) takes arrays over by name",
            )
        if None not in (state.batch, self.pinned_batch) and state.batch != self.pinned_batch:
            raise StateError(
                "the state's batch size is not the one that the file fixes",
                expected=f"{self.pinned_batch} rows",
                received=f"{state.batch} rows",
                remedy="export the model without `batch=` for a batch of any size",
            )

    def step(
        self,
        feed: Mapping[str, Array],
        state: State | None = None,
        output_names: Sequence[str] | None = None,
    ) -> tuple[list[Array], State]:
        """Run the model once. Pure: neither the model nor `state` changes.

        A chunk of zero time steps gives outputs of zero time steps and the state that came.

        Args:
            feed: One array an input, by name, in the manifest's dtypes and shapes.
            state: Where to start from; None is the initial state for the feed's batch size.
            output_names: Outputs to give, in this order; None is all, in Keras's order.

        Returns:
            The outputs, and the state after the last step.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
            StateError: `state` belongs to another model.
            RunError: ONNX Runtime failed, or gave a state that does not fit the manifest.
        """
        names = self._output_names(output_names)
        if state is not None:
            self.check_state(state)
        checked = check_feed(
            self.manifest,
            feed,
            batch=None if state is None else state.batch,
            pinned=self.pinned_batch,
        )
        if state is None:
            state = self._first_state(checked.batch)
        if checked.steps == 0:
            return empty_outputs(self.manifest, names, checked, state.batch), state
        outputs, values = self._execute(checked.arrays, state, names)
        try:
            after = State(self.manifest.states, values, state.steps + checked.steps, state.batch)
        except StateError as error:
            raise RunError(
                f"the model gave a state that does not fit its manifest: {error.message}",
                expected=error.expected,
                received=error.received,
            ) from error
        return outputs, after

    def _output_names(self, wanted: Sequence[str] | None) -> list[str]:
        names = [tensor.name for tensor in self.manifest.outputs]
        if wanted is None:
            return names
        if isinstance(wanted, str) or not isinstance(wanted, Sequence):
            raise InputError(
                "the output names are no list of names", expected=names, received=repr(wanted)
            )
        states = {state.output for state in self.manifest.states}
        for name in wanted:
            if not isinstance(name, str):
                raise InputError("an output name is no text", expected=names, received=repr(name))
            if name in states:
                raise InputError(
                    f"the output {name!r} is a state, which is carried for you",
                    remedy="get_states() gives it",
                )
            if name not in names:
                raise InputError(f"the model has no output {name!r}", expected=names)
        return list(wanted) or names

    def _first_state(self, batch: int | None) -> State:
        batched = any(item.batch_axis is not None for item in self.manifest.states)
        if batched and batch is None and self.pinned_batch is None:
            raise InputError(
                "no input says how many rows the states have",
                remedy="set_states(...), or start from Model.initial_state(batch)",
            )
        return self.initial_state(batch)

    def _execute(
        self, arrays: Mapping[str, Array], state: State, names: Sequence[str]
    ) -> tuple[list[Array], dict[str, Array]]:
        """The call itself, the one place that knows where the state's memory lies."""
        items = self.manifest.states
        feed = {**arrays, **{item.input: state.values[item.name] for item in items}}
        fetch = [*names, *(item.output for item in items)]
        empty = [name for name, array in feed.items() if array.size == 0]
        if empty:  # the checks before this one leave none; ONNX Runtime would end the process
            raise RunError(f"arrays of size zero cannot be fed: {empty}")
        try:
            # NOTE: an empty list of names means all outputs to ONNX Runtime.
            results = self._session.run(fetch, feed) if fetch else []
        except ort_errors() as error:
            raise RunError(
                f"ONNX Runtime failed: {error}", remedy="the state is as it was before the call"
            ) from error
        values = {
            item.name: result for item, result in zip(items, results[len(names) :], strict=True)
        }
        return results[: len(names)], values


def read_manifest(model: Source) -> Manifest:
    """The manifest of an ONNX file, read without onnx and without checking it on the graph.

    Args:
        model: Path to an ONNX file, or its bytes.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelFileError: The file is missing, damaged or no ONNX model.
        MissingManifestError: The file carries no manifest.
        ManifestError: The manifest is malformed.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    # only the metadata is wanted: no optimisation of the graph, no threads, no log
    options.log_severity_level = FATAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = open_session(model, providers=None, session_options=options)
    return manifest_of(session, describe(model))
