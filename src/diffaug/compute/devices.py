"""Devices by their names, and the processes that `accelerate launch` starts."""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from diffaug.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """One of the processes that train together, each on its own rows of every batch. By default there is one."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and goes on when the training is done."""
        return self.index == 0


ALONE = Process()
NAMES = "cpu, cuda, cuda:N, mps or auto"  # that a device has


@cache
def this_process() -> Process:
    """Return which process of `accelerate launch` this is; alone where it was started without."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())  # without a GPU it would take itself to be alone
    return Process(state.process_index, state.num_processes)


def leave_others() -> None:
    """Disconnect the processes of `accelerate launch`, so that the first goes on without the others."""
    if this_process().count > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


def device_of_network(network: torch.nn.Module) -> torch.device:
    """Return the device of a network's weights; diffusers' own `device` looks at every module each time."""
    return next(network.parameters()).device


def device_of(name: str) -> torch.device:
    """Return a device by its name; `auto` is a GPU where there is one. Each of several processes gets its own GPU.

    Raises:
        ConfigError: The name is unknown, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"  # nobody has measured Metal: it is chosen by name alone
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"a device must be {NAMES}; got {name!r}") from None
    if device.type not in ("cpu", *_found()):
        raise ConfigError(f"a device must be {NAMES}; got {name!r}")
    count = _found().get(device.type, 1)
    if (device.index or 0) >= count:
        kind = "GPUs" if device.type == "cuda" else "devices of Apple's Metal"
        raise ConfigError(f"a device must be there: torch finds {count} {kind}, not {name}; use cpu")
    if device.type == "cuda" and this_process().count > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def _found() -> dict[str, int]:
    """Return how many devices of each kind beside the CPU torch finds."""
    return {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}


def processor_of(device: torch.device) -> str:
    """Return the kind of processor that a device is: one kind computes the same bits.

    Of a CPU it is the system, the architecture, and what torch computes with: the vector instructions, and whether
    there are instructions for bfloat16, since models are evaluated in it where there are.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "mps":
        return f"{platform.system()} {platform.machine()} Metal"
    more = {"BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    vectors = torch.backends.cpu.get_cpu_capability()
    return " ".join([platform.system(), platform.machine(), vectors, *(name for name, found in more.items() if found)])


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums then have one order, so that a run gives the same bits wherever it runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Set the gradients of every process to their mean over all processes."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    mean = mean_of_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, part in zip(gradients, torch.split(mean, [each.numel() for each in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_of_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes of `accelerate launch`; each of them must call this."""
    from accelerate import PartialState
    from accelerate.utils import reduce

    mean: Tensor = reduce(values.to(PartialState().device), reduction="mean")
    return mean.to(values.device)
