"""A stand-in for a CUDA device, on the CPU: it refuses to mix devices and counts what waits.

A `DeviceTensor` holds a CPU tensor and calls itself ``cuda:0``. Every operation that PyTorch
dispatches comes by `_Dispatch`: operands are taken out, the CPU computes, results are wrapped
again. An operand that was left on the host raises `DevicesMixed`, as CUDA would, with CUDA's own
exceptions: index tensors, copies, and numbers (tensors without axes).

What C++ answers without dispatching (``tolist``, ``data_ptr``, lists as indices, ``torch.tensor``)
comes by `_Functions`. What it cannot show: kernels that only a GPU has, its rounding, its memory.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import kvcore
from invariants.support.precision import switches_restored

DEVICE = torch.device("cuda", 0)
PROJECT = str(Path(kvcore.__file__).parent)
HERE = __file__
aten = torch.ops.aten
_COPIES = (aten.copy_.default, aten._to_copy.default)
_INDEXED = {
    aten.index.Tensor: 2,
    aten.index_put_.default: 2,
    aten.index_put.default: 2,
    aten._index_put_impl_.default: 2,
    aten._unsafe_index.Tensor: 2,
}
"""Operations whose second operand is a list of index tensors, which may lie on the host."""
_WAITING = {
    aten._local_scalar_dense.default: "a number is read",
    aten.equal.default: "tensors are compared",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "a mask picks",
    aten._unique2.default: "unique",
}


class DevicesMixed(AssertionError):
    """An operation got tensors of the device and of the host."""


class Event(NamedTuple):
    """Something that makes the host wait for the device, or copies to it.

    Attributes
    ----------
    what : str
    line : str
        ``file.py:line`` of the project's code that caused it.
    """

    what: str
    line: str


class Counts:
    """What happened on the device since `reset`.

    Attributes
    ----------
    waits : counter of Event
        The host waited for a result: a number, a copy to the host, a size.
    uploads : counter of Event
        A copy to the device that waits for what was launched before it; those that are put in the
        queue (``non_blocking``) do not count.
    passes : int
        Calls of models that `counting_passes` watches.
    """

    def __init__(self) -> None:
        self.waits: Counter[Event] = Counter()
        self.uploads: Counter[Event] = Counter()
        self.passes = 0

    def reset(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]

    @contextmanager
    def counting_passes(self, model: Any) -> Iterator[None]:
        """Count the passes of a model, inside the context."""

        def count(*_inputs: Any) -> None:
            self.passes += 1

        handle = model.register_forward_pre_hook(count)
        try:
            yield
        finally:
            handle.remove()

    def worst(self, events: Counter[Event], count: int = 8) -> str:
        """Return the most frequent events, in words."""
        return "; ".join(f"{n} x {e.what} in {e.line}" for e, n in events.most_common(count))


class DeviceTensor(Tensor):
    """A CPU tensor that calls itself one of the device; all it can do comes by dispatching."""

    on_host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[DeviceTensor], on_host: Tensor) -> DeviceTensor:
        """Wrap a CPU tensor, which is not copied."""
        wrapped: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            on_host.shape,
            strides=on_host.stride(),
            storage_offset=on_host.storage_offset(),
            dtype=on_host.dtype,
            device=DEVICE,
            requires_grad=False,
        )
        wrapped.on_host = on_host
        return wrapped

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, _types: Any, _args: Any = (), _kwargs: Any = None
    ) -> Any:
        """Refuse: outside `stand_in_device` there is no device."""
        raise DevicesMixed(f"{func} was called on the device outside its context")


def project_line() -> str:
    """Return the innermost line of the project's code that is running."""
    frame = sys._getframe(1)
    outer = "no line of kvcore"
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT):
            return f"{Path(name).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        if name != HERE and "invariants" in name and outer == "no line of kvcore":
            outer = f"{Path(name).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back  # type: ignore[assignment]
    return outer


def _bare(value: Any) -> Any:
    return value.on_host if isinstance(value, DeviceTensor) else value


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _numbered(value: Any) -> Any:
    """Return ``cuda`` with its number, which C++ would ask the driver for."""
    names_it = isinstance(value, torch.device | str) and str(value) == "cuda"
    return DEVICE if names_it else value


class _Dispatch(TorchDispatchMode):
    """Runs every operation on the CPU tensors inside, after looking where its operands lie."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = counts

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes seconds

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
        to_device = bool(on_device)
        if "device" in kwargs and kwargs["device"] is not None:
            to_device = _is_device(kwargs["device"])
            kwargs["device"] = torch.device("cpu")
        if func in _COPIES:
            source_there = isinstance(args[1 if func is aten.copy_.default else 0], DeviceTensor)
            to_device = (
                isinstance(args[0], DeviceTensor) if func is aten.copy_.default else to_device
            )
            self._count_copy(source_there, to_device, bool(kwargs.get("non_blocking")))
        elif on_device:
            self._check(func, args, tensors)
            self._count_wait(func, args)
        elif not to_device:
            return func(*args, **kwargs)
        result = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if func is aten._local_scalar_dense.default or not to_device:
            return result
        back = {id(x.on_host): x for x in on_device}  # in-place operations return what they changed

        def wrapped(x: Any) -> Any:
            known = back.get(id(x))
            return known if known is not None else DeviceTensor(x)

        if isinstance(result, Tensor):
            return wrapped(result)
        return tree_map(lambda x: wrapped(x) if isinstance(x, Tensor) else x, result)

    def _check(self, func: Any, args: Any, tensors: Sequence[Tensor]) -> None:
        allowed: set[int] = set()
        if func in _INDEXED and isinstance(args[0], DeviceTensor):
            allowed = {id(x) for x in args[1] if isinstance(x, Tensor)}
            if any(not isinstance(x, DeviceTensor) for x in args[1] if isinstance(x, Tensor)):
                self.counts.uploads[Event("index", project_line())] += 1
        for x in tensors:
            if not isinstance(x, DeviceTensor) and x.ndim and id(x) not in allowed:
                raise DevicesMixed(
                    f"{func} got a tensor of the host, {tuple(x.shape)} {x.dtype}, beside tensors "
                    f"of the device, in {project_line()}"
                )

    def _count_wait(self, func: Any, args: Any) -> None:
        what = _WAITING.get(func)
        if func in _INDEXED and any(
            x.dtype in (torch.bool, torch.uint8) for x in args[1] if x is not None
        ):
            single = len(args) > 2 and args[2].numel() == 1  # a fill under the mask
            what = None if single else "a mask picks"
        if what:
            self.counts.waits[Event(what, project_line())] += 1

    def _count_copy(self, source_there: bool, to_device: bool, queued: bool) -> None:
        if source_there and not to_device:
            self.counts.waits[Event("copy to the host", project_line())] += 1
        if to_device and not source_there and not queued:
            self.counts.uploads[Event("copy to the device", project_line())] += 1


class _Functions(TorchFunctionMode):
    """Answers for what C++ does without dispatching, or with kernels chosen by the device."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self, func, args, kwargs)
        if func is Tensor.cuda:
            return args[0].to(DEVICE)
        return func(*map(_numbered, args), **{k: _numbered(v) for k, v in kwargs.items()})

    def wait(self, what: str) -> None:
        """Count a wait."""
        self.counts.waits[Event(what, project_line())] += 1

    def to_list(self, _func: Any, args: Any, _kwargs: Any) -> Any:
        """Tensor.tolist, which copies to the host."""
        if isinstance(args[0], DeviceTensor):
            self.wait("copy to the host")
        return _bare(args[0]).tolist()

    def number(self, func: Any, args: Any, _kwargs: Any) -> Any:
        """A number or a truth value of a tensor."""
        if isinstance(args[0], DeviceTensor):
            self.wait("a number is read")
        return func(_bare(args[0]))

    def nonzero(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Tensor.nonzero, whose result has a size that the host must know."""
        if isinstance(args[0], DeviceTensor):
            self.wait("nonzero")
        return self.inside(func, args, kwargs)

    def numpy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Tensor.numpy, which CUDA refuses."""
        if isinstance(args[0], DeviceTensor):
            raise DevicesMixed(f"numpy() of a tensor of the device, in {project_line()}")
        return func(*args, **kwargs)

    def inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What asks where in memory a tensor lies, or has a single operand and asks the driver."""
        if not isinstance(args[0], DeviceTensor):
            return func(*args, **kwargs)
        result = func(args[0].on_host, *args[1:], **kwargs)
        if result is args[0].on_host:
            return args[0]
        return DeviceTensor(result) if isinstance(result, Tensor) else result

    def copy(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Tensor.copy_, between whatever devices."""
        there, from_there = (isinstance(x, DeviceTensor) for x in args[:2])
        if there and not from_there and not kwargs.get("non_blocking"):
            self.counts.uploads[Event("copy to the device", project_line())] += 1
        if from_there and not there:
            self.wait("copy to the host")
        func(*map(_bare, args), **kwargs)
        return args[0]

    def tensor(self, func: Any, args: Any, kwargs: Any) -> Any:
        """torch.tensor and torch.as_tensor of data of the host."""
        device = kwargs.get("device")
        if not _is_device(device):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        if made.numel():
            self.counts.uploads[Event("torch.tensor", project_line())] += 1
        return DeviceTensor(_bare(made))

    def index(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Indexing, for which C++ asks the device's driver before it dispatches."""
        if not isinstance(args[0], DeviceTensor):
            return func(*args, **kwargs)
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        for part in parts:
            if isinstance(part, Tensor) and part.ndim == 0 and part.dtype != torch.bool:
                self.wait("a number is read")
            if isinstance(part, list | range) or type(part) is Tensor:
                self.counts.uploads[Event("an index of the host", project_line())] += 1
        values = args[2:]
        masked = any(isinstance(x, Tensor) and x.dtype == torch.bool for x in parts)
        if masked and not all(isinstance(x, int | float) or x.numel() == 1 for x in values):
            self.wait("a mask picks")
        elif masked and not values:
            self.wait("a mask picks")
        for value in values:
            if type(value) is Tensor and value.ndim:
                raise DevicesMixed(f"a tensor of the host was put in, in {project_line()}")
        result = func(args[0].on_host, *tree_map(_bare, args[1:]))
        return DeviceTensor(result) if isinstance(result, Tensor) else result

    def attention(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Scaled dot-product attention, whose kernel is chosen by the device."""
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        there = [isinstance(x, DeviceTensor) for x in tensors]
        if any(there) and not all(there):
            raise DevicesMixed(
                f"attention got tensors of the host beside tensors of the device, in "
                f"{project_line()}"
            )
        result = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        return DeviceTensor(result) if any(there) else result


_SPECIAL: dict[Any, Callable[..., Any]] = {
    Tensor.tolist: _Functions.to_list,
    Tensor.item: _Functions.number,
    Tensor.__bool__: _Functions.number,
    Tensor.__int__: _Functions.number,
    Tensor.__float__: _Functions.number,
    Tensor.__index__: _Functions.number,
    Tensor.numpy: _Functions.numpy,
    Tensor.__array__: _Functions.numpy,
    Tensor.data_ptr: _Functions.inside,
    Tensor.untyped_storage: _Functions.inside,
    Tensor.contiguous: _Functions.inside,
    Tensor.__invert__: _Functions.inside,
    Tensor.__getitem__: _Functions.index,
    Tensor.__setitem__: _Functions.index,
    Tensor.copy_: _Functions.copy,
    Tensor.nonzero: _Functions.nonzero,
    torch.nonzero: _Functions.nonzero,
    torch.tensor: _Functions.tensor,
    torch.as_tensor: _Functions.tensor,
    torch.nn.functional.scaled_dot_product_attention: _Functions.attention,
}


@contextmanager
def stand_in_device() -> Iterator[Counts]:
    """Let this process have a CUDA device that is none.

    Yields
    ------
    Counts
        What made the host wait, and what was copied to the device.
    """
    counts = Counts()
    with switches_restored(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "is_initialized", lambda: False)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "get_device_name", lambda _device=None: "stand-in device")
        patch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (2**34, 2**34))
        # A module that is moved gets new parameters: the old ones cannot hold wrapped tensors.
        future = torch.__future__
        patch.setattr(future, "get_overwrite_module_params_on_conversion", lambda: True)
        # Tensors that are made in inference mode cannot be wrapped.
        patch.setattr(torch, "inference_mode", torch.no_grad)
        with torch.no_grad(), _Dispatch(counts), _Functions(counts):
            yield counts
