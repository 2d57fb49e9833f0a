"""How each example ends: where its files go, and the exit code.

    python examples/04_stateful_paragraphs.py             # files in a temporary directory
    python examples/04_stateful_paragraphs.py --out DIR   # files in DIR, to look at

Exit codes: 0, everything within the tolerance; 1, something was not; 2, a package is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

TOLERANCE = 1e-5
"""Largest absolute difference allowed between ONNX Runtime and Keras, float32."""


def run(main: Callable[[Path | None], float], doc: str | None) -> None:
    """Run an example from the command line and exit.

    Args:
        main: Takes a directory, or None for a temporary one; returns the largest difference.
        doc: The example's docstring, for `--help`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="keep the ONNX files in this directory")
    out: Path | None = parser.parse_args().out
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    try:
        worst = main(out)
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    matches = worst <= TOLERANCE  # NaN is no match
    print(f"largest difference: {worst:.1e} ({'within' if matches else 'NOT within'} {TOLERANCE})")
    sys.exit(0 if matches else 1)
