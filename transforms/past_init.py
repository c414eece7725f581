"""Import a module of a package without running the package's own `__init__`."""

import importlib
import importlib.util
import sys
from types import ModuleType


def submodule(package: str, name: str) -> ModuleType:
    """`package.name`, where `package/__init__.py` imports what is not wanted here (a trainer, torchaudio).

    The package itself is left as if it had never been imported, so that who imports it later gets all of it.

    Raises ImportError where there is no such package or module, or the module needs one that there is not.
    """
    if package in sys.modules:
        return importlib.import_module(f"{package}.{name}")
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    sys.modules[package] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(f"{package}.{name}")
    finally:
        del sys.modules[package]
