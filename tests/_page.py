"""Runs the code blocks of one page of the documentation; `test_docs.py` starts it.

A process of its own for each page: a page may configure Keras or ONNX Runtime as it likes.
Standard input carries the blocks as JSON, the argument is the page, the current directory is
where the reader would work.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> None:
    """Run the blocks in their order; the first that fails ends the process."""
    page = sys.argv[1]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in json.load(sys.stdin):
        where = f"{page}:{block['line']}"
        print(f"-- {block['language']} block at {where}", flush=True)
        if block["language"] == "bash":
            # NOTE: no standard input: a command that asks must fail, not hang.
            subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block["code"]],
                check=True,
                stdin=subprocess.DEVNULL,
            )
        else:
            # The empty lines make a traceback show the page's own line.
            source = "\n" * (block["line"] - 1) + block["code"]
            exec(compile(source, page, "exec"), namespace)  # noqa: S102 -- the page is ours


if __name__ == "__main__":
    main()
