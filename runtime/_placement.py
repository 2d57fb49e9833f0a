"""Where the nodes of a graph run, as ONNX Runtime recorded it when it opened the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rnnonnx.errors import ProviderError

from ._auto import open_where
from ._onnxruntime import RECORD_PLACEMENT, ort_errors

if TYPE_CHECKING:
    from ._onnxruntime import Source
    from ._providers import Providers

_SINCE: Final = "1.24"
"""The first ONNX Runtime that tells."""


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """Where one node runs.

    Attributes:
        name: The node's name, after ONNX Runtime has simplified the graph; what a provider
            compiles into one piece is listed node by node.
        op_type: Its operator.
        domain: The operator's domain; empty for the standard one.
        provider: The execution provider that runs it.
    """

    name: str
    op_type: str
    domain: str
    provider: str


def read_placement(
    model: Source, *, providers: Providers = None, session_options: Any | None = None
) -> tuple[NodePlacement, ...]:
    """Where the nodes of any ONNX file would run, one without a manifest too.

    Args:
        model: Path to an ONNX file, or its bytes.
        providers: As in `Model.load`.
        session_options: As in `Model.load`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelFileError: The file is missing, damaged or no ONNX model.
        ProviderError: A provider is not available, or the placement was not recorded.
    """
    opened = open_where(model, providers=providers, session_options=session_options)
    return placement_of(opened.session)


def placement_of(session: Any) -> tuple[NodePlacement, ...]:
    """The placement that an open `onnxruntime.InferenceSession` has recorded.

    In ONNX Runtime's order: by the order of providers, then by that of the graph.

    Raises:
        ProviderError: Its options did not ask for a record, or ONNX Runtime is too old to
            keep one.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise ProviderError(
            "the installed ONNX Runtime does not tell which nodes run where",
            expected=f"onnxruntime {_SINCE} or newer",
            remedy=f'pip install -U "onnxruntime>={_SINCE}"',
        )
    if not _is_recorded(session):
        raise ProviderError(
            "the model was loaded with session options of your own, which record no placement",
            remedy=f'options.add_session_config_entry("{RECORD_PLACEMENT}", "1") before loading',
        )
    return tuple(
        NodePlacement(node.name, node.op_type, node.domain, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def _is_recorded(session: Any) -> bool:
    # NOTE: asking options for an entry that they do not have is an error.
    try:
        entry = session.get_session_options().get_session_config_entry(RECORD_PLACEMENT)
    except ort_errors():
        return False
    return bool(entry == "1")
