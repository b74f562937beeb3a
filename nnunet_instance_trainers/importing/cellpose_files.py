"""The masks in Cellpose's ``_seg.npy`` files, without executing what is in them.

Such a file is a pickle, which may name any function of Python to be called. Here nothing that it names is looked up:
every name becomes an object of one class of our own, which keeps what it was given and does nothing. The array of masks
is then put together from the bytes that numpy's own pickles carry, as numpy documents its ``__reduce__``.
"""

from __future__ import annotations

from pathlib import Path
from pickle import Unpickler
from typing import Any

import numpy as np

from nnunet_instance_trainers.errors import UserError

__all__ = ["read_seg_npy"]

_TYPES = {"u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"}


class _Named:
    """What stands for anything that a pickle asks for by name."""

    source = ""
    made_of: tuple = ()
    state: Any = None

    def __new__(cls, *made_of: Any) -> _Named:
        new = object.__new__(cls)
        new.made_of = made_of
        return new

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _NamesOnly(Unpickler):
    """Reads numbers, texts, lists, dictionaries; of all else the name and what it would be made of."""

    def find_class(self, module: str, name: str) -> Any:
        return type("Named", (_Named,), {"source": f"{module}.{name}"})


def read_seg_npy(path: Path, case: str) -> np.ndarray:
    """The masks (Y, X) or (Z, Y, X) of a ``_seg.npy`` file.

    Raises:
        UserError: it is not what Cellpose writes; it names the remedy.
    """
    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(stream)
            if not dtype.hasobject or shape != ():
                raise ValueError("no dictionary")
            (content,) = _NamesOnly(stream).load().state[-1]
        return _array(content["masks"])
    except OSError as error:
        raise UserError(f"cannot open {path} ({error.strerror or error}): put it there, or allow it") from None
    except Exception:  # bytes that are no pickle raise many kinds
        raise UserError(
            f"case {case!r}: {path} is damaged or not as Cellpose writes it: save the masks as PNG or TIFF in Cellpose "
            "(File, Save masks), and give those"
        ) from None


def _array(pickled: Any) -> np.ndarray:
    """An array of whole numbers from what numpy pickled of it."""
    _, shape, dtype, by_columns, content = pickled.state
    kind, order = dtype.made_of[0], dtype.state[1]
    if not pickled.source.endswith("multiarray._reconstruct") or dtype.source != "numpy.dtype":
        raise ValueError("no array of numpy")
    if kind not in _TYPES or order not in ("<", ">", "|", "=") or len(shape) not in (2, 3):
        raise ValueError("no image of whole numbers")
    if not all(isinstance(size, int) and size > 0 for size in shape) or not isinstance(content, bytes):
        raise ValueError("no image")
    values = np.frombuffer(content, np.dtype(f"{order}{kind}"))
    return values.reshape(shape, order="F" if by_columns else "C").astype(kind)  # writeable, in this machine's order
