"""What a dry run looks at: a few images of the data, and for about a second how fast this machine trains a network."""

import io
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from diffaug.config import Config, FitConfig, GenerateConfig, StudyConfig
from diffaug.data.folder import read_dataset
from diffaug.data.lesions import count_lesions
from diffaug.data.split import shuffled
from diffaug.errors import ConfigError

PAINTER = 34.0  # ms of a row of the painter, on one thread of the machine of docs/results.md (AVX-512)
LOOKED_AT = 8  # images whose size, lesions and bytes are measured
SECONDS = 0.5  # of a probe, beside its first step
ROWS = 4  # of a batch of a probe
BUSY = 0.75  # processes for each core, at which a dry run says that the machine is busy


@dataclass(frozen=True)
class Facts:
    """What an estimate needs to know of a data set.

    Attributes:
        train: Annotated training cases, lesion-free ones included.
        unannotated: Images without masks.
        tested: Cases of the split `test`.
        width: Of the median image, px.
        height: Of the median image, px.
        lesions: Of an annotated image that has one, on average.
        megabytes: Of an image as PNG, on average.
        known: Whether this was measured; else it is a guess.
        lesion_free: How many of `train` have no lesion.
    """

    train: int = 500
    unannotated: int = 0
    tested: int = 200
    width: int = 352
    height: int = 352
    lesions: float = 1.1
    megabytes: float = 0.25
    known: bool = False
    lesion_free: int = 0

    @property
    def megapixels(self) -> float:
        """Of an image."""
        return self.width * self.height / 1e6

    def text(self) -> str:
        """Return a line for people."""
        size = f"{self.width} x {self.height} px"
        if not self.known:
            return f"The data set is not there: taken to hold {self.train} annotated training images of {size}."
        lesion_free = f" ({self.lesion_free} of them lesion-free)" if self.lesion_free else ""
        return (
            f"Data: {self.train} annotated{lesion_free} and {self.unannotated} unannotated training images, "
            f"{self.tested} test images; {size}, {self.lesions:.1f} lesions in an image that has any."
        )


@dataclass(frozen=True)
class Look:
    """What was looked at before an estimate.

    Attributes:
        facts: Of the data.
        painter: Milliseconds of a training step of the painter, for each row of a batch, on one thread of a CPU, or on
            the whole of another device; None if it was not timed.
        threads: Threads that share the work of a fit; 1 on a device that is no CPU.
        segmenter: Milliseconds of a training step of the study's network on one thread, for each row; None as above.
        busy: Processes that wait for each core of a busy CPU, or run on it, at this time; None if it is not busy.
    """

    facts: Facts = Facts()
    painter: float | None = None
    threads: int = 1
    segmenter: float | None = None
    busy: float | None = None

    @property
    def row(self) -> float:
        """Milliseconds of a row of the painter, as a fit computes it: timed, or on two threads of the reference."""
        return PAINTER / 2 if self.painter is None else self.painter / self.threads

    @property
    def row_of_thread(self) -> float:
        """The same on one thread, as a process of `generate` computes it."""
        return PAINTER if self.painter is None else self.painter


def look_at(config: Config | FitConfig | GenerateConfig | StudyConfig, facts: Facts, device: str) -> Look:
    """Time the networks that a stage, or a run, computes with; nothing is timed where its device is not here.

    Args:
        config: Of the stage or the run.
        facts: Of its data.
        device: Where it will compute.

    Raises:
        ConfigError: The network of the study cannot be loaded.
        StudyError: The user's function failed.
    """
    import torch

    from diffaug.compute.devices import device_of

    try:
        place = device_of(device)
    except ConfigError:
        return Look(facts)
    study = config if isinstance(config, StudyConfig) else config.study if isinstance(config, Config) else None
    painter = None if isinstance(config, StudyConfig) else painter_milliseconds(device)
    on_cpu = place.type == "cpu"
    segmenter = segmenter_milliseconds(study, device) if study else None
    return Look(facts, painter, torch.get_num_threads() if on_cpu else 1, segmenter, busy() if on_cpu else None)


def busy() -> float | None:
    """Return how many processes run or wait for each core, over the last minute; None if a core has less than `BUSY`.

    On Windows, which keeps no such average, it is None.
    """
    averages = getattr(os, "getloadavg", None)
    if averages is None:
        return None
    load = float(averages()[0]) / (os.cpu_count() or 1)
    return load if load >= BUSY else None


def facts_of(folder: Path | None) -> Facts:
    """Return the facts of a data set, from its table and some of its training images; without one, a guess.

    Raises:
        DataError: The data set is not there, or its table or an image that is looked at breaks a rule of the format.
    """
    if folder is None:
        return Facts()
    data = read_dataset(folder)
    train = data.annotated("train")
    some = shuffled([case.id for case in train or data.cases], seed=0)[:LOOKED_AT]
    sizes, lesions, amounts = list[tuple[int, ...]](), list[int](), list[float]()
    for case in (data[name] for name in some):
        pixels, file = case.read_image(), io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        sizes.append(pixels.shape[:2])
        amounts.append(file.tell() / 1e6)
        lesions.append(count_lesions(case.read_mask()) if case.mask else 0)
    height, width = (int(value) for value in np.median(sizes, axis=0))
    holding = [count for count in lesions if count] or [1]
    return Facts(
        len(train), len(data.split("unannotated")), len(data.split("test")), width, height,
        float(np.mean(holding)), float(np.mean(amounts)), True,
        sum(case.negative for case in train),
    )  # fmt: skip


def free_gigabytes(folder: Path) -> float:
    """Return the free space of the disk on which a folder lies, or will lie."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free / 1e9


@cache
def painter_milliseconds(device: str) -> float:
    """Return the time of a training step of the shipped painter, for each window of a batch."""
    import torch

    from diffaug.compute.devices import device_of, one_thread
    from diffaug.models.loading import load_model
    from diffaug.training.starting import SHIPPED

    model = load_model(SHIPPED, device_of(device))
    side, generator = model.window, torch.Generator().manual_seed(0)
    images = torch.rand(ROWS, 3, side, side, generator=generator).to(model.device)
    region, scale = torch.zeros_like(images[:, :1]), torch.ones(ROWS, 2, device=model.device)
    region[..., side // 4 : side // 2, side // 4 : side // 2] = 1
    masks = region.repeat(1, max(1, model.classes), 1, 1)
    with torch.no_grad():
        given = model.condition(images, region, masks, scale, model.embed([""]).expand(ROWS, -1, -1))
    noise, t = torch.randn_like(given.masked_image_latents), torch.full((ROWS,), 300, device=model.device)

    def step() -> None:
        model(noise, t, given).pow(2).mean().backward()  # type: ignore[no-untyped-call] # torch's stubs

    with model.tuned(0, 0), one_thread():
        return _timed(step, model.device.type)


@cache
def segmenter_milliseconds(config: StudyConfig, device: str) -> float:
    """Return the time of a training step of the network of a study, for each image of a batch.

    Raises:
        ConfigError: The network cannot be loaded.
        StudyError: The user's function failed.
    """
    import torch

    from diffaug.compute.devices import device_of, one_thread
    from diffaug.study.network import build_network

    place = device_of(device)
    network = build_network(config, 0).train().to(place)
    images = torch.rand(ROWS, 3, config.size, config.size, device=place).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        network(images).pow(2).mean().backward()

    with one_thread():  # as the processes of a study
        return _timed(step, place.type)


def _timed(step: Callable[[], None], kind: str) -> float:
    """Return the milliseconds of a row of the fastest step of those that fit into the time; the first is left out.

    On a CPU a step must compute on one thread, and its processor time counts, so that what else runs there does not.
    Several threads would wait for each other: on a busy machine one of them is often put aside, while the others use
    processor time to wait for it, up to a hundred times what the step needs.
    """
    import torch

    found, started = list[float](), time.perf_counter()
    clock = time.perf_counter if kind == "cuda" else time.process_time
    while len(found) < 3 or time.perf_counter() - started < SECONDS:
        before = clock()
        step()
        if kind == "cuda":
            torch.cuda.synchronize()
        found.append(clock() - before)
    return 1000 * min(found[1:]) / ROWS
