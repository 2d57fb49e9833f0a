"""What a front stands on: `Service`, or what hands requests on to other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rnnonnx.runtime import StreamPool

    from ._inference import InferRequest, InferResponse
    from ._keys import Caller
    from ._models import Carry
    from ._service import IndexEntry, ModelMetadata
    from ._settings import Settings
    from ._stats import ModelStats


class Backend(Protocol):
    """A server without a protocol, as the fronts use it. `Service` describes each method."""

    @property
    def settings(self) -> Settings:
        """What it was started with."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """What it understands beside the protocol itself."""

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""

    def authenticate(self, authorization: str | None) -> Caller:
        """Who sends a request."""

    def admit(self, caller: Caller) -> None:
        """Count a request against the rate of its key."""

    async def infer(self, caller: Caller, request: InferRequest) -> InferResponse:
        """Run a request."""

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """What a model takes and gives."""

    def is_ready(self, model: str, version: str = "") -> bool:
        """Whether a model is loaded."""

    def statistics(self, model: str = "", version: str = "") -> Mapping[str, ModelStats]:
        """What models have done."""

    def pools(self) -> Mapping[str, StreamPool]:
        """The pools of this process, for measurements."""

    def index(self, *, ready: bool = False) -> Sequence[IndexEntry]:
        """All models."""

    async def load(self, caller: Caller, model: str, carry: Carry) -> None:
        """Load a model, or replace it."""

    async def unload(self, caller: Caller, model: str, carry: Carry) -> None:
        """Unload a model."""
