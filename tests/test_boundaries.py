"""The walls between the rooms, read from the imports.

`exporters` and `runtime` stand on `rnnonnx` and never import each other; nothing under
`runtime/` imports TensorFlow, Keras, tf2onnx or onnx; `rnnonnx` loads a room only when it is
used. Inside a room imports are relative, across rooms absolute.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"rnnonnx": "rnnonnx", "rnnonnx.exporters": "exporters", "rnnonnx.runtime": "runtime"}
ROOMS = {"rnnonnx.exporters", "rnnonnx.runtime"}
TRAINING = {"tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "onnxscript", "jax", "torch"}
# What the runtime may import besides the standard library and `rnnonnx`.
RUNTIME_NEEDS = {"numpy", "safetensors", "onnxruntime"}
# Copied out of the package, and imported by another program from there.
COPIED = {ROOT / "rnnonnx" / "triton" / "model.py"}


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute name."""

    path: Path
    line: int
    module: str
    relative: bool
    top_level: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def _files(package):
    folder = ROOT / FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        # the links rnnonnx/exporters and rnnonnx/runtime show the rooms a second time
        inside = path.relative_to(folder).parts[0] if package == "rnnonnx" else ""
        if inside not in {"exporters", "runtime"}:
            yield path


def _run_at_import(tree):
    """Nodes that run when the module is imported, so not the bodies of functions."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack += node.orelse  # for type checkers alone
            continue
        stack += list(ast.iter_child_nodes(node))


def _imports(package):
    for path in _files(package):
        tree = ast.parse(path.read_text("utf-8"))
        at_import = set(map(id, _run_at_import(tree)))
        inner = path.relative_to(ROOT / FOLDERS[package]).parent.parts
        here = [*package.split("."), *inner]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules, relative = [alias.name for alias in node.names], False
            elif isinstance(node, ast.ImportFrom):
                relative = node.level > 0
                base = here[: len(here) - node.level + 1] if relative else []
                stem = ".".join([*base, *filter(None, [node.module])])
                # `from a import b` may import the module a.b
                modules = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
            elif _dynamic(node):
                modules, relative = [node.args[0].value], False
            else:
                continue
            for module in modules:
                yield Import(path, node.lineno, module, relative, id(node) in at_import)


def _dynamic(node):
    """`require("x")`, `import_module("x")` and `__import__("x")`."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in {"require", "import_module", "__import__"}
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
    )


def _room_of(module):
    return next((r for r in ROOMS if module == r or module.startswith(r + ".")), "rnnonnx")


def _is_ours(module):
    return module.split(".")[0] == "rnnonnx"


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_there_is_something_to_read(package):
    assert list(_imports(package))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_never_imports_another(room):
    [other] = ROOMS - {room}
    assert not [str(i) for i in _imports(room) if _room_of(i.module) == other]
    assert not [str(i) for i in _imports(room) if i.module.startswith("rnnonnx.cli")]


def test_the_runtime_imports_nothing_of_training():
    found = [i for i in _imports("rnnonnx.runtime") if i.module.split(".")[0] in TRAINING]
    assert not list(map(str, found))


def test_the_runtime_needs_three_packages():
    allowed = RUNTIME_NEEDS | sys.stdlib_module_names | {"rnnonnx"}
    found = [i for i in _imports("rnnonnx.runtime") if i.module.split(".")[0] not in allowed]
    assert not list(map(str, found))


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_imports_are_relative_inside_and_absolute_across(package):
    found = [
        i
        for i in _imports(package)
        if _is_ours(i.module) and i.relative != (_room_of(i.module) == package)
    ]
    if package == "rnnonnx":  # the front door: its command line stands above the contract
        found = [i for i in found if "cli" not in i.path.parts and i.path not in COPIED]
    assert not list(map(str, found))


def test_the_contract_loads_a_room_only_when_it_is_used():
    found = [
        i
        for i in _imports("rnnonnx")
        if i.top_level
        and _room_of(i.module) in ROOMS
        and "cli" not in i.path.parts
        and i.path not in COPIED
    ]
    assert not list(map(str, found))


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("rnnonnx.runtime", TRAINING | {"typer", "click", "rich"}),
        ("rnnonnx", TRAINING | {"typer", "onnxruntime", "rnnonnx.exporters", "rnnonnx.runtime"}),
        ("rnnonnx.manifest", TRAINING | {"typer", "onnxruntime"}),
    ],
)
def test_what_an_import_loads(module, forbidden):
    code = f"import sys, {module}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not forbidden & set(out.stdout.split())


def test_opening_a_model_loads_nothing_of_training():
    code = (
        "import sys\n"
        "from rnnonnx import ModelFileError\n"
        "from rnnonnx.runtime import StatefulSession\n"
        "try: StatefulSession(b'no model')\n"
        "except ModelFileError: print(*sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(out.stdout.split())
    assert "onnxruntime" in loaded
    assert not TRAINING & loaded
