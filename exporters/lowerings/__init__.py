"""One file a layer type: how it becomes standard ONNX nodes.

Importing the package registers every lowering in it. Modules that begin with an underscore
are shared parts and register nothing.
"""

from __future__ import annotations

import importlib
import pkgutil

MODULES = tuple(
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
)
