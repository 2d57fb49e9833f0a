"""The one exception tree of the project.

Every error that a caller can cause or must handle derives from `RnnonnxError` and says
four things where they apply: what was wrong with which name, what was expected, what came
instead, and what to do about it.
"""

from __future__ import annotations


class RnnonnxError(Exception):
    """Base of all errors that rnnonnx raises on purpose.

    Args:
        message: What went wrong, with the name of the input, state, layer or file.
        expected: What would have been right.
        received: What came instead.
        remedy: What the caller can do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: object = None,
        received: object = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.expected = expected
        self.received = received
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.message]
        for label, value in (
            ("expected", self.expected),
            ("received", self.received),
            ("remedy", self.remedy),
        ):
            if value is not None:
                parts.append(f"  {label}: {value}")
        return "\n".join(parts)


class MissingExtraError(RnnonnxError, ImportError):
    """An optional dependency is not installed; the message carries the pip command."""


class ModelFileError(RnnonnxError):
    """A model file is missing, cannot be read, or is not what its name says."""


class ManifestError(RnnonnxError):
    """A manifest is absent, malformed, of a newer format, or does not fit its graph."""


class MissingManifestError(ManifestError):
    """The ONNX file carries no rnnonnx manifest; `rnnonnx annotate` can add one."""


class ExportError(RnnonnxError):
    """A Keras model cannot be exported faithfully."""


class ArgumentError(ExportError, ValueError):
    """An argument of the export is out of range or names what the model does not have."""


class UnbuiltModelError(ExportError):
    """The Keras model has no weights or input shapes yet."""


class UnsafeModelError(ExportError):
    """Loading the Keras file would run code that it carries or names (a Lambda layer, say)."""


class UnsupportedLayerError(ExportError):
    """A layer has no faithful ONNX form; the message names it and says why."""


class StatesArgumentError(ArgumentError):
    """`states=` does not fit the model: it would drop, invent or confuse state."""


class ParityError(RnnonnxError):
    """The ONNX file does not compute what Keras computes, within the tolerance."""


class ParityAssertionError(ParityError, AssertionError):
    """`rnnonnx.testing.assert_parity` has failed: a test that calls it fails as by an assertion.

    Attributes:
        report: The whole `ParityReport`.
    """

    def __init__(self, message: str, *, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class InputError(RnnonnxError, ValueError):
    """An input's name, rank, shape, dtype or batch size is wrong. No state has changed."""


class StateError(RnnonnxError, ValueError):
    """State given to the runtime has wrong names, shapes, dtypes or rows."""


class StateFileError(StateError):
    """A state file or snapshot is missing, damaged, or belongs to another model."""


class StoreError(RnnonnxError):
    """A store of states cannot be reached, or what it holds cannot be read."""


class StepConflictError(StoreError):
    """A request for another step than the stream's next one; or the stream is not there.

    Attributes:
        step: The stream's next step; None where the store does not have the stream.
    """

    def __init__(self, message: str, *, step: int | None = None, **parts: object) -> None:
        super().__init__(message, **parts)  # type: ignore[arg-type]  # as the base takes them
        self.step = step


class ProviderError(RnnonnxError):
    """An execution provider that was asked for by name is not available."""


class RunError(RnnonnxError):
    """ONNX Runtime failed while it ran the model. The state is as it was before the call."""


class PoolError(RnnonnxError):
    """A pool of streams cannot do what was asked; no stream has changed."""


class PoolFullError(PoolError):
    """As many streams are open as the pool has room for."""


class QueueFullError(PoolError):
    """As many requests wait as the pool's queue has room for. This one was not queued."""


class PoolClosedError(PoolError):
    """The pool is closed, or was made in the process that this one was forked from."""


class StreamClosedError(PoolError):
    """The stream is closed: by its owner, or evicted since it was idle."""


class PartialRunError(RunError):
    """Some streams of one `run_many` failed, each with its state as it was; the others ran.

    Attributes:
        errors: The error of each stream that failed, by id.
        outputs: What `run_many` would have returned, with zeros in the rows that failed; None
            where all failed; where the outputs of several batches cannot be one array, a list of
            those of each batch.
    """

    def __init__(self, message: str, *, errors: dict[str, RnnonnxError], outputs: object) -> None:
        super().__init__(
            message,
            received={key: error.message for key, error in list(errors.items())[:5]},
            remedy="the attributes `errors` and `outputs` have the rest",
        )
        self.errors = errors
        self.outputs = outputs
