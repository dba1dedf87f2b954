"""Where work runs: on which device, on how many threads, from which generators; and what to do without memory."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dwflow_lite.support.checks import whole_seed

AUTO = ("cuda", "mps", "cpu")  # tried in turn
# What the allocator of the CPU says, what other devices do (CUDA, Apple's), and libraries on a card (cuBLAS, cuDNN).
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "alloc_failed")


# -- which device ------------------------------------------------------------------------------------------------------


def usable_device(device: torch.device | str = "auto") -> torch.device:
    """The device that is meant, once a number has been there and back.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` …; or ``"auto"``: the first GPU if there is one that
            knows float64, in which gauges and PCA are computed (those of Apple do not; they can be named), else the
            CPU.

    Raises:
        ValueError: no such device, or none here; it names those that are.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
        >>> usable_device("abacus")
        Traceback (most recent call last):
        ValueError: cannot run on device 'abacus' here; choose another: ...
    """
    if isinstance(device, str) and device == "auto":
        return next(_reached(name, torch.float64) for name in AUTO if _is_reached(name, torch.float64))
    try:
        return _reached(device)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:  # what torch raises, by device and version
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"cannot run on device {str(device)!r} here; choose another: {', '.join(map(repr, devices_here()))}, or "
            f"'auto' ({reason})"
        ) from error


def devices_here() -> list[str]:
    """The names of the devices of this machine, as :func:`usable_device` takes them.

    Example:
        >>> devices_here()[0]
        'cpu'
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"]
    return ["cpu", *(name for name in gpus if _is_reached(name))]


def _reached(device: torch.device | str, dtype: torch.dtype = torch.float32) -> torch.device:
    """The device on which a number was that went there and came back."""
    there = torch.zeros(1, dtype=dtype, device=torch.device(device))  # None would be any
    there.cpu()
    return there.device


def _is_reached(device: str, dtype: torch.dtype = torch.float32) -> bool:
    try:
        _reached(device, dtype)
    except Exception:  # whatever torch raises where there is none, or no such numbers
        return False
    return True


def name_of(device: torch.device) -> str:
    """The name of a card; of any other device its type, such as ``"cpu"``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def said(device: torch.device) -> str:
    """What a figure or a report says of a device: the name of a card, or how many threads of the CPU.

    Example:
        >>> with one_thread():
        ...     said(torch.device("cpu"))
        'the CPU, 1 thread'
    """
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"the CPU, {threads} thread{'s' if threads > 1 else ''}"
    return name_of(device) if device.type == "cuda" else f"a GPU ({device.type})"


# -- threads, generators, memory ---------------------------------------------------------------------------------------


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Run a block on one thread of this process if ``when``; the number of threads is given back after it.

    Tiny tensors run no faster on several, and two programs whose threads spin stall each other.
    """
    before = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def global_generators(device: torch.device) -> list[torch.Generator]:
    """The generators from which modules such as ``nn.Dropout`` draw: of the CPU, and of ``device`` if that is a GPU."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    return generators


def generator_from(seed: int) -> torch.Generator:
    """A new generator of the CPU that starts from a seed, a whole number of Python or NumPy >= 0."""
    return torch.Generator().manual_seed(whole_seed(seed))


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """What draws from the global generators in here draws from ``seed``; they are given back as they were.

    Args:
        device: whose generators, see :func:`global_generators`.
        seed: a whole number >= 0.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed the generators of all GPUs, and fork_rng gives back only those that it is told.
        for generator in global_generators(device):
            generator.manual_seed(seed)
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, be it the GPU's or the CPU's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).casefold() for words in OUT_OF_MEMORY)


@contextmanager
def out_of_memory_as(message: str) -> Iterator[None]:
    """Out of memory in here, be it the GPU's or the CPU's, is a ``MemoryError`` that says ``message``.

    Around a block (``with``), or above a function whose whole body is meant (``@``). The message says what to lower.
    Of several, one in another, the outermost speaks: it knows what its caller can lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # a notebook keeps the error, and with it all that they hold
        raise MemoryError(message) from error
