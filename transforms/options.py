"""The base of every stage's options: typed, frozen, unknown fields refused, attribute docstrings as help."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """A group of settings. A field's docstring is its help text; `antiphon prepare --help-config` prints them all."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
