"""Parity in tests of one's own: one line, in any test runner, and with hypothesis.

Importing this loads numpy alone. `assert_parity` needs the extra `export`, the strategies need
`testing`; each is imported when it is called. For pytest there is a fixture of the same name,
which the installed package brings by itself.
"""

from __future__ import annotations

from ..errors import ParityAssertionError
from ._parity import assert_parity
from ._strategies import MASK_KINDS, masks, sequences

__all__ = [
    "assert_parity",
    "ParityAssertionError",
    # for hypothesis
    "sequences",
    "masks",
    "MASK_KINDS",
]
