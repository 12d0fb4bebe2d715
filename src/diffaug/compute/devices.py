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
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"a device must be cpu, cuda, cuda:N or auto; got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"a device must be there: torch finds {torch.cuda.device_count()} GPUs, not {name}; use cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"a device must be cpu, cuda, cuda:N or auto; got {name!r}")
    if device.type == "cuda" and this_process().count > 1:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def processor_of(device: torch.device) -> str:
    """Return the kind of processor that a device is: one kind computes the same bits.

    Of a CPU it is the system, the architecture, and what torch computes with: the vector instructions, and whether
    there are instructions for bfloat16, since models are evaluated in it where there are.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
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
    from accelerate import PartialState
    from accelerate.utils import reduce

    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    mean = reduce(flat.to(PartialState().device), reduction="mean").to(flat.device)
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
