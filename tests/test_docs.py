"""The documentation is run: code blocks, links, make targets, the architecture's table.

A page's blocks run from top to bottom in one fresh directory: ```python blocks in one
namespace, ```bash blocks in one shell each, with the commands of this environment first on
PATH. A page is thus one session of a reader who types everything in its order. What cannot
run in a test (installing, cloning, make) is listed in `NOT_RUN` and checked otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DRIVER = Path(__file__).parent / "_page.py"

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
"""The pages whose code is run."""
LINKED = sorted([*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])
"""The pages whose links, fences and commands are checked."""

RUN = ("python", "bash")
SHOWN = ("text", "json", "toml", "yaml", "mermaid")

NOT_RUN = {
    r"make( |$)": "runs this test suite, or minutes of it; the target must exist",
    r"(python -m )?pip install ": "changes the environment; the extras that it names must exist",
    r"git clone ": "needs a network",
    r"cd rnnonnx$": "enters the clone",
    r"\. \.venv/bin/activate$": "the test's environment is the active one",
}
"""Commands of bash blocks that are checked, not run: a pattern of the whole command, the reason."""


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, its text, and the line of the page it starts at."""

    language: str
    code: str
    line: int


def parse(page: Path):
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    # NOTE: `map` has the line of the opening fence, counted from 0: the code starts one below.
    return [
        Block(token.info.strip(), token.content, token.map[0] + 2)
        for token in parse(page)
        if token.type in ("fence", "code_block") and token.map is not None
    ]


def commands(code: str) -> list[str]:
    """The commands of a bash block, those that go over several lines joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def is_run(command: str) -> bool:
    return not any(re.match(pattern, command) for pattern in NOT_RUN)


def runnable(page: Path) -> list[Block]:
    found = []
    for block in blocks(page):
        if block.language == "python":
            found.append(block)
        elif block.language == "bash":
            code = "\n".join(filter(is_run, commands(block.code)))
            if code:
                found.append(Block("bash", code, block.line))
    return found


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=page_id)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    # NOTE: the shell finds `rnnonnx` and `python` of this environment, wherever pytest runs.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "MPLBACKEND": "agg",
        "COLUMNS": "120",
    }
    result = subprocess.run(
        [sys.executable, DRIVER, page],
        input=json.dumps([asdict(block) for block in runnable(page)]),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, f"{page_id(page)}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_fences(page: Path) -> None:
    for block in blocks(page):
        where = f"{page_id(page)}:{block.line}"
        assert block.language in RUN + SHOWN, (
            f"{where}: a code block must be one of {RUN + SHOWN}, not {block.language!r}"
        )
        match block.language:
            case "json":
                json.loads(block.code)
            case "toml":
                tomllib.loads(block.code)
            case "python":
                compile(block.code, where, "exec")


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_commands_that_are_not_run(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for block in blocks(page):
        if block.language != "bash":
            continue
        for command in commands(block.code):
            words = shlex.split(command, comments=True)
            if words[0] == "make":
                named = {word for word in words[1:] if "=" not in word}
                assert named <= targets, f"{page_id(page)}: no such target: {command}"
            for group in re.findall(r"rnnonnx\[([^]]*)\]", command):
                assert set(group.split(",")) <= extras, f"{page_id(page)}: no such extra: {command}"


def slug(heading: str) -> str:
    """The anchor that a code host gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    tokens = parse(page)
    return {
        slug("".join(child.content for child in following.children or []))
        for token, following in pairwise(tokens)
        if token.type == "heading_open"
    }


def links(page: Path) -> list[str]:
    inline = [child for token in parse(page) for child in token.children or []]
    found = [token.attrGet("href" if token.type == "link_open" else "src") for token in inline]
    return [str(link) for link in found if link]


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_relative_links(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):  # https:, mailto:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), f"{page_id(page)}: {link} leaves the repository"
        assert target.exists(), f"{page_id(page)}: {link} does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page_id(page)}: {link}: no such heading"


def modules() -> set[str]:
    """Every module of the three rooms, and every package folder with a slash at its end.

    `__init__.py` files are not modules of their own: they hand on their folder's public names.
    """
    found = set()
    for room in ("rnnonnx", "exporters", "runtime"):
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT)
            if parts.parts[:2] in (("rnnonnx", "exporters"), ("rnnonnx", "runtime")):
                continue  # the links, for Pythons whose rglob follows them
            found.add(
                parts.as_posix() if path.name != "__init__.py" else f"{parts.parent.as_posix()}/"
            )
    return found


def module_table(page: Path) -> list[str]:
    """The first cells of the page's tables whose header begins with `Module`."""
    tokens = parse(page)
    found: list[str] = []
    header = ""
    for index, token in enumerate(tokens):
        if token.type == "tr_open":
            first = tokens[index + 2].content
            if tokens[index + 1].type == "th_open":
                header = first
            elif header == "Module":
                found.append(first.strip("`"))
    return found


def test_architecture_names_every_module() -> None:
    table = module_table(ROOT / "docs" / "architecture.md")
    assert len(table) == len(set(table)), "docs/architecture.md: a module has two rows"
    missing = sorted(modules() - set(table))
    gone = sorted(set(table) - modules())
    assert not missing, f"docs/architecture.md has no row for {missing}"
    assert not gone, f"docs/architecture.md has rows for modules that are not there: {gone}"
