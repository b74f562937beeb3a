"""A device that is not the CPU and needs no hardware: it refuses what a GPU refuses and counts what a GPU is slow at.

Its tensors hold their values on the CPU, so results must equal those of the CPU. Whoever mixes them with tensors of the
CPU, or gives them to NumPy, gets an error. Counted are kernels (operations that are not mere views), and waits: what a
GPU's host cannot go on without, because a size or a value in Python depends on it, copies to the host among them.

    with CountedDevice() as device:
        loss(output.to(device), ...).backward()
    device.kernels, device.waits

It leans on private parts of torch (a Python backend in the place of PrivateUse1) and says so where they are missing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

# The first backward pass starts a thread for each device that there is, and after that nothing that is forked can go
# backward: the tests with several processes are. So it comes before the device does.
torch.zeros(1, requires_grad=True).sum().backward()

try:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(rename="counted")
except (ImportError, RuntimeError) as error:
    pytest.skip(f"this torch cannot have a device made in Python: {error}", allow_module_level=True)

__all__ = ["CountedDevice"]


aten = torch.ops.aten
_DEVICE = torch.device("counted", 0)

# What has a size that depends on values, or goes to Python. CUDA's bincount looks for the greatest, minlength or not.
_WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "equal",
}  # fmt: skip
_VIEWS = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "slice", "select", "narrow", "unsqueeze", "squeeze",
    "transpose", "permute", "t", "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind", "empty",
    "empty_strided", "new_empty", "lift_fresh",
}  # fmt: skip
_COPIES = {"_to_copy", "copy_", "copy"}


class _Far(Tensor):
    """A tensor of the device."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> _Far:
        far = Tensor._make_wrapper_subclass(
            cls,
            near.shape,
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=_DEVICE,
        )
        far.near = near
        return far

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{operation} on a tensor of the device outside of its context")


class CountedDevice(TorchDispatchMode):
    """Within it tensors can be sent to the device; gradients too are computed there.

    Attributes:
        kernels, waits: how often each operation was one.
        n_bytes: what kernels read and write; an upper bound, for of a tensor that is indexed all counts.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and keeping the compiler out begins by importing it: 1.4 s

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.n_bytes = 0

    def __enter__(self) -> CountedDevice:
        # The autograd engine would give the device a thread of its own, in which no mode is on.
        self._one_thread = torch.autograd.set_multithreading_enabled(False)
        self._one_thread.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._one_thread.__exit__(*error)

    def send(self, *tensors: Tensor) -> list[Tensor]:
        return [tensor.to(_DEVICE) for tensor in tensors]

    def clear(self) -> None:
        self.kernels.clear()
        self.waits.clear()
        self.n_bytes = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, leaves = operation._schema.name.split("::")[1], tree_leaves((args, kwargs))
        is_far = any(isinstance(leaf, _Far) for leaf in leaves)
        goes_to = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        near = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, _Far) and leaf.ndim]
        if is_far and near and name not in _COPIES:
            raise RuntimeError(f"{operation} mixes the device with CPU tensors of {[tuple(one.shape) for one in near]}")
        to_host = goes_to == "cpu" or (name == "copy_" and not isinstance(args[0], _Far))
        if is_far and (name in _WAITS or to_host or _by_mask(name, args)):
            self.waits[name] += 1
        is_kernel = (is_far or goes_to == _DEVICE.type) and name not in _VIEWS
        if goes_to == _DEVICE.type:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        result = operation(*tree_map(_near, args), **tree_map(_near, kwargs))
        if is_kernel:
            self.kernels[name] += 1
            self.n_bytes += sum(one.nbytes for one in (*leaves, *tree_leaves(result)) if isinstance(one, Tensor))
        if name == "copy_":
            return args[0]
        if name == "_local_scalar_dense" or goes_to == "cpu" or not (is_far or goes_to == _DEVICE.type):
            return result
        return return_and_correct_aliasing(operation, args, kwargs, tree_map(_far, result))


def _near(value: Any) -> Any:
    return value.near if isinstance(value, _Far) else value


def _far(value: Any) -> Any:
    return _Far(value) if isinstance(value, Tensor) and not isinstance(value, _Far) else value


def _by_mask(name: str, args: Any) -> bool:
    """Whether an indexing is by a mask, of which the number of true voxels must be known."""
    return name in ("index", "index_put", "index_put_") and any(
        index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return _Far(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return _Far(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _near(target).copy_(_near(source))
    return target


# For autocast, which then casts nothing.
torch.counted.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
_autocast = torch.library.Library("_", "IMPL")
_autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")

# torch.tensor(..., device=...) goes past the mode.
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")
