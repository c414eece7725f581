"""Text that came from outside, made fit to be shown or stored: no credential of an address, no control character."""

import re
from typing import Any

# scheme://authority/path?query#fragment (RFC 3986, appendix B), as it may stand in the middle of an error message.
_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<authority>[^/?#\s'\"<>]*)(?P<path>[^?#\s'\"<>]*)(?P<rest>[?#][^\s'\"<>]*)?"
)
_GLOBS = ("gs://", "s3://", "hdfs://")
"""Addresses whose `?` may be a wildcard."""


def redact(text: str) -> str:
    """Every address in `text` without its user and password, and without its query: `https://***@host/x?***`.

    Signed links carry their key in the query, so all of it goes. The same text redacted again stays as it is.
    """

    def hide(found: re.Match[str]) -> str:
        _, at, host = found["authority"].rpartition("@")
        rest = found["rest"] or ""
        if rest and not (found["scheme"] in _GLOBS and "=" not in rest):
            rest = f"{rest[0]}***"
        return found["scheme"] + (f"***@{host}" if at else host) + found["path"] + rest

    return _ADDRESS.sub(hide, text) if "://" in text else text


def redact_all(value: Any) -> Any:
    """`redact` on every string of nested lists, tuples and dicts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_all(key): redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(redact_all(inner) for inner in value)
    return value


def show(text: str, keep: str = "") -> str:
    """`text` for a terminal: redacted, and whatever is not printable (escape codes, line ends, bidirectional marks) as
    `\\x1b` or `\\u202e`. Characters in `keep` pass."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)
    return redact(text)


def _escape(c: str) -> str:
    number = ord(c)
    # A byte of a file name that is not UTF-8 reaches Python as U+DC80..U+DCFF (PEP 383).
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def valid(text: str) -> str:
    """`text` as it can be stored in UTF-8: bytes of a file name that are not UTF-8, and lone surrogates, as `show` has them."""
    try:
        # Where the locale is not UTF-8, a name that is reaches Python as such bytes too.
        return text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        return "".join(_escape(c) if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


def valid_all(value: Any) -> Any:
    """`valid` on every string of nested lists and dicts."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, dict):
        return {valid_all(key): valid_all(inner) for key, inner in value.items()}
    return [valid_all(inner) for inner in value] if isinstance(value, list) else value
