"""Centroids out of other projects' k-means files, read without running them.

Such a file is a pickle of scikit-learn's (Mini)BatchKMeans, mostly written by joblib (fairseq, textlesslib), which puts the bytes
of each array between two of the pickle's opcodes. Unpickling runs whatever the file says. Here its opcodes are read by hand:
names become `Name`, calls `Call` and objects `Call` with a state, all of them plain data; nothing is imported, called or looked
up, and a name that has no business in a k-means file is refused. The opcodes are those of Python's `pickletools`; the place of
an array's bytes is joblib's (joblib/numpy_pickle.py).
"""

import io
import pickletools
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from schemas.errors import UserError


class NotCentroids(UserError):
    """The file holds no centroids in a form that is known, or it names something that no k-means file needs."""


_ARRAY_WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
_ALLOWED = re.compile(
    r"(numpy(\._?core)?(\.multiarray|\.numeric)?\.(ndarray|dtype|scalar|_reconstruct|_frombuffer|float64|float32|int32|int64)"
    r"|numpy\.random\.(_pickle|mtrand)\.\w+|numpy\.random\._mt19937\.MT19937|_codecs\.encode|copy_?reg\._reconstructor"
    r"|builtins\.object|__builtin__\.object"
    r"|sklearn\.cluster\.(_kmeans|k_means_)\.(MiniBatchKMeans|KMeans)|" + re.escape(_ARRAY_WRAPPER) + r")\Z"
)
_MAX_BYTES = 1 << 30
"""2,000 centroids of 1,280 float64 are 20 MB; a compressed file that grows beyond this is no k-means file."""


@dataclass(slots=True)
class Name:
    """A global that the pickle refers to, `module.name`. It is only ever compared with strings."""

    path: str


@dataclass(slots=True)
class Call:
    """An object as the pickle describes it: what would be called, with what, and the state it would get."""

    what: Any
    arguments: Any
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


def read(path: Path) -> np.ndarray:
    """float32 `[k, d]`: the centroids of a `.npy` file or of a pickle, joblib's or plain, compressed by zlib or gzip or not.

    Raises NotCentroids.
    """
    data = path.read_bytes()
    if data.startswith(b"\x93NUMPY"):
        try:
            found = np.load(io.BytesIO(data), allow_pickle=False)
        except ValueError as error:
            raise NotCentroids(f"{path}: {error}") from None
    else:
        found = _from_pickle(path, _inflated(path, data))
    if found.ndim != 2 or not len(found) or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise NotCentroids(f"{path}: an array of {found.dtype} {found.shape}; finite floats [k, d] are expected")
    return found.astype(np.float32)


def _inflated(path: Path, data: bytes) -> bytes:
    if data[:1] != b"\x78" and data[:2] != b"\x1f\x8b":
        return data
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        found = inflate.decompress(data, _MAX_BYTES)
    except zlib.error as error:
        raise NotCentroids(f"{path}: {error}") from None
    if inflate.unconsumed_tail:
        raise NotCentroids(f"{path}: more than {_MAX_BYTES} bytes when decompressed")
    return found


def _from_pickle(path: Path, data: bytes) -> np.ndarray:
    try:
        found = _run(io.BytesIO(data))
    except NotCentroids as error:
        raise NotCentroids(f"{path}: {error}") from None
    except Exception as error:
        raise NotCentroids(f"{path}: neither .npy nor a pickle of k-means ({type(error).__name__}: {error})") from None
    if isinstance(found, Call) and isinstance(found.state, dict):
        found = found.state.get("cluster_centers_")
    if not isinstance(found, np.ndarray):
        raise NotCentroids(f"{path}: a pickle without an array of cluster_centers_")
    return found


def _run(file: BinaryIO) -> Any:
    """The tree that a pickle describes. Raises NotCentroids for a name or an opcode that no k-means file needs."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        found = stack[at:]
        del stack[at:]
        return found

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack[-1]
        if name in _PLAIN:
            stack.append(argument)
        elif name in _MADE:
            stack.append(_MADE[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "GLOBAL":
                path = argument.replace(" ", ".")
            else:
                last, module = stack.pop(), stack.pop()
                path = f"{module}.{last}"
            if not _ALLOWED.match(path):
                raise NotCentroids(f"it refers to {path}, which no k-means file needs; it was not loaded")
            stack.append(Name(path))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments)
        elif name == "BUILD":
            state = stack.pop()
            stack[-1] = _built(stack[-1], state, file)
        elif name in ("TUPLE", "LIST"):
            stack.append((tuple if name == "TUPLE" else list)(since_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "DICT":
            flat = since_mark()
            stack.append(dict(zip(flat[::2], flat[1::2], strict=True)))
        elif name == "SETITEMS":
            flat = since_mark()
            _items(stack[-1]).update(zip(flat[::2], flat[1::2], strict=True))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _items(stack[-1])[key] = value
        elif name in ("APPENDS", "APPEND"):
            values = since_mark() if name == "APPENDS" else [stack.pop()]
            stack[-1].extend(values)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "POP":
            stack.pop()
        else:
            raise NotCentroids(f"it has the opcode {name}, which no k-means file needs")
    raise NotCentroids("it ends before its end")


_PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_MADE: dict[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


def _items(container: Any) -> dict[Any, Any]:
    return container.items if isinstance(container, Call) else container


def _called(what: Any, arguments: Any) -> Any:
    path = what.path if isinstance(what, Name) else ""
    if path == "_codecs.encode":
        # How Python 3 writes bytes for the readers of protocol 2.
        return arguments[0].encode("latin1")
    if path.endswith("._frombuffer"):
        data, dtype, shape, order = arguments
        return np.frombuffer(bytes(data), _dtype(dtype)).reshape(shape, order=order).copy()
    return Call(what, arguments)


def _built(made: Any, state: Any, file: BinaryIO) -> Any:
    if not isinstance(made, Call):
        raise NotCentroids(f"it gives a state to a {type(made).__name__}")
    path = made.what.path if isinstance(made.what, Name) else ""
    if path in ("copyreg._reconstructor", "copy_reg._reconstructor"):
        path = made.arguments[0].path
    made.state = state
    if path == _ARRAY_WRAPPER:
        return _inline(state, file)
    if path.endswith("._reconstruct") and isinstance(state, tuple) and len(state) == 5:
        # numpy's own state of an array: version, shape, dtype, column order, bytes.
        _, shape, dtype, fortran, data = state
        if not isinstance(data, bytes | bytearray):
            return made  # an array of objects, which centroids are not
        return np.frombuffer(bytes(data), _dtype(dtype)).reshape(shape, order="F" if fortran else "C").copy()
    return made


def _inline(state: Any, file: BinaryIO) -> Any:
    """The array whose bytes follow here, behind padding where the writer aligned them."""
    dtype = _dtype(state["dtype"])
    if state.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])
    count = int(np.prod(state["shape"], dtype=np.int64))
    data = file.read(count * dtype.itemsize)
    return np.frombuffer(data, dtype, count).reshape(state["shape"], order=state["order"]).copy()


def _dtype(described: Any) -> np.dtype[Any]:
    """A number's dtype as a pickle describes it: its code, and byte order in its state. Raises NotCentroids for any other."""
    if isinstance(described, Call) and isinstance(described.what, Name) and described.what.path == "numpy.dtype":
        code = described.arguments[0]
        order = described.state[1] if described.state else "<"
        if isinstance(code, str) and re.fullmatch(r"[fiu][1248]|b1", code):
            return np.dtype((order if order in ("<", ">") else "=") + code)
    raise NotCentroids("it holds an array of something other than numbers")
