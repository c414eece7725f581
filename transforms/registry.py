"""Backends by name: a table of "name -> module:class", imported only when one is asked for."""

import importlib
from collections.abc import Mapping
from typing import Any


def load(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class that `table` names. Raises ValueError, listing the known names, where there is no such backend."""
    if name not in table:
        raise ValueError(f"{what}: no backend called {name!r}; there are {', '.join(sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
