"""The pytest plugin, loaded wherever the package is installed: the fixture `assert_parity`.

It costs a test run that does not use it next to nothing: it loads pytest and numpy alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._parity_report import ParityReport


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., ParityReport]:
    """`rnnonnx.testing.assert_parity`: fails the test unless a file computes what Keras does."""
    from . import assert_parity as function

    return function
