"""The model: an immutable pair of graph and manifest, and the pure step from state to state."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from rnnonnx.errors import InputError, StateError

from ._auto import PassedOver, open_where
from ._execute import execute, new_state
from ._feed import Feed, check_feed, empty_outputs
from ._fit import manifest_of, pinned_batch
from ._memory import Device
from ._onnxruntime import FATAL, Source, describe, onnxruntime, open_session
from ._placement import NodePlacement, placement_of
from ._providers import CUDA
from ._state import Array, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rnnonnx.manifest import Manifest

    from ._providers import Providers


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded ONNX file. Any number of sessions and threads can share it.

    Make one with `Model.load`.

    Attributes:
        manifest: What the file says of its inputs, outputs and states.
        pinned_batch: The batch size that the file fixes; None where any will do.
        inference_session: ONNX Runtime's `InferenceSession`, which carries nothing.
        device: Where a session keeps its states: on the device of the first provider.
        cuda_graphs: Whether calls of a fixed shape are captured as CUDA graphs: the provider
            was given with `enable_cuda_graph`.
        graph_lock: Held by every call then: ONNX Runtime takes one at a time while it captures
            graphs.
        passed_over: Providers that `providers="auto"` prefers to those of `get_providers()`,
            each with the reason why it cannot start; empty without `auto`.
    """

    manifest: Manifest
    pinned_batch: int | None
    inference_session: Any = field(repr=False)
    device: Device
    cuda_graphs: bool
    passed_over: tuple[PassedOver, ...] = ()
    graph_lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _graph_numbers: Iterator[int] = field(default_factory=lambda: count(1), repr=False)

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
        options = session.get_provider_options().get(CUDA, {})
        return cls(
            manifest,
            pinned_batch(manifest, session),
            session,
            Device.of(session),
            cuda_graphs=options.get("enable_cuda_graph") == "1",
            passed_over=opened.passed_over,
        )

    def get_inputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each input that is no state, in Keras's order."""
        args = {arg.name: arg for arg in self.inference_session.get_inputs()}
        return [args[tensor.name] for tensor in self.manifest.inputs]

    def get_outputs(self) -> list[Any]:
        """ONNX Runtime's `NodeArg` of each output that is no state, in Keras's order."""
        args = {arg.name: arg for arg in self.inference_session.get_outputs()}
        return [args[tensor.name] for tensor in self.manifest.outputs]

    def get_providers(self) -> list[str]:
        """The execution providers that the model runs on, in order of precedence."""
        return list(self.inference_session.get_providers())

    def placement(self) -> tuple[NodePlacement, ...]:
        """Which execution provider runs each node, as ONNX Runtime decided at load.

        Raises:
            ProviderError: The model was loaded with session options that do not record it, or
                ONNX Runtime is older than 1.24. The error names the remedy.
        """
        return placement_of(self.inference_session)

    @property
    def has_batch(self) -> bool:
        """Whether any state has a batch axis."""
        return any(item.batch_axis is not None for item in self.manifest.states)

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
        names = self.output_names(output_names)
        if state is not None:
            self.check_state(state)
        checked = self.check_feed(feed, None if state is None else state.batch)
        if state is None:
            state = self.first_state(checked.batch)
        if checked.steps == 0:
            return empty_outputs(self.manifest, names, checked, state.batch), state
        result = execute(self, checked.arrays, state.values, names)
        steps = state.steps + checked.steps
        return result.outputs, new_state(self.manifest.states, result.values, steps, state.batch)

    def output_names(self, wanted: Sequence[str] | None = None) -> list[str]:
        """The names of the outputs that a call gives.

        Args:
            wanted: As the caller of `step` has it; None and an empty list are all.

        Raises:
            InputError: A name is none of an output's, or a state's.
        """
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

    def first_state(self, batch: int | None) -> State:
        """The initial state for a feed of this batch size.

        Raises:
            InputError: The feed does not say how many rows the states have.
        """
        if self.has_batch and batch is None and self.pinned_batch is None:
            raise InputError(
                "no input says how many rows the states have",
                remedy="set_states(...), or start from Model.initial_state(batch)",
            )
        return self.initial_state(batch)

    def check_feed(
        self, feed: Mapping[str, Any], batch: int | None, *, in_place: bool = False
    ) -> Feed:
        """Check the inputs of a call.

        Args:
            feed: Arrays by input name.
            batch: Rows of the state that is carried; None where it fixes none.
            in_place: Whether tensors may be handed over where they lie.

        Raises:
            InputError: A name, dtype, rank or size is wrong.
        """
        return check_feed(
            self.manifest, feed, batch=batch, pinned=self.pinned_batch, in_place=in_place
        )

    def next_graphs(self) -> tuple[int, int]:
        """Two numbers of CUDA graphs that nothing of this model has used."""
        return next(self._graph_numbers), next(self._graph_numbers)


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
