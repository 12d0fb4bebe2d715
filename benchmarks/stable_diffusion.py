"""Peak memory and milliseconds of Stable Diffusion 1.5's architecture: a training step, and a painted window.

Usage: python benchmarks/stable_diffusion.py OUT [--device cuda] [--once] [--quick]
    OUT     OUT/stable_diffusion.json.
    --once  one training step and one sampler step each, for a CPU; longer runs are computed from them, and marked.
    --quick tiny networks, for a test.

Weights are random: neither time nor memory depends on them. Painting runs in 8 steps of our sampler, and in 50 and 8 of
diffusers' own pipeline, all with text guidance. Memory is the most that was in use at once: of a GPU what torch
allocated, of a CPU the resident memory of the process (on Linux; 0 elsewhere).
"""

import argparse
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from diffaug.artifacts import make_folder, write_json
from diffaug.compute.devices import device_of
from diffaug.compute.precision import autocast
from diffaug.conditioning.prompts import all_prompts
from diffaug.config import DenoiserConfig
from diffaug.diffusion.guidance import Guided
from diffaug.diffusion.sampler import sample
from diffaug.models.base import LatentInpainter
from diffaug.models.compact import tokenizer_of
from diffaug.models.stable_diffusion import StableDiffusion
from diffaug.training.painter import train_painter
from diffaug.training.windows import Windows
from diffaug.validator.latent_segmenter import UPSCALE

GIGA = 2**30
PROMPT = "a small flat lesion"
GUIDANCE = 3.0
OURS, THEIRS = 8, (50, 8)  # steps


def model_of(quick: bool) -> LatentInpainter:
    """Return the networks of Stable Diffusion 1.5 inpainting, or tiny ones, with random weights."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(all_prompts())
    width, words = (32, len(tokenizer)) if quick else (768, 49408)
    side, groups, blocks, codec = (8, 16, (32, 64), 16) if quick else (64, 32, (320, 640, 1280, 1280), 128)
    crossed = len(blocks) - 1
    unet = UNet2DConditionModel(
        sample_size=side,
        in_channels=9,
        block_out_channels=blocks,
        down_block_types=("CrossAttnDownBlock2D",) * crossed + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * crossed,
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=groups,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(codec, 2 * codec, 4 * codec, 4 * codec),
        layers_per_block=2,
        norm_num_groups=groups,
        sample_size=8 * side,
    )
    text = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=2 if quick else 12,
        num_attention_heads=2 if quick else 12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
    tokenizer.model_max_length = text.max_position_embeddings
    parts = (part.eval().requires_grad_(False) for part in (vae, unet, CLIPTextModel(text)))
    return StableDiffusion(*parts, tokenizer, DDIMScheduler(**schedule, steps_offset=1))


class Meter:
    """Measures peak memory and time of a piece of work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def measure(self, work: Callable[[], Any]) -> dict[str, float]:
        """Return seconds, of the clock and of the processor, GiB held before, and GiB at the peak."""
        held = self._reset()
        started, busy = time.monotonic(), time.process_time()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return {
            "seconds": time.monotonic() - started,
            "cpu_seconds": round(time.process_time() - busy, 2),
            "held_gib": round(held / GIGA, 3),
            "peak_gib": round(max(held, self._peak()) / GIGA, 3),  # the system counts some pages late
        }

    def _reset(self) -> int:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            return int(torch.cuda.memory_allocated(self.device))
        if (marks := Path("/proc/self/clear_refs")).exists():
            marks.write_text("5")  # the high-water mark starts again
        return self._resident("VmRSS")

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        return self._resident("VmHWM")

    @staticmethod
    def _resident(name: str) -> int:
        status = Path("/proc/self/status")
        found = re.search(rf"{name}:\s+(\d+) kB", status.read_text() if status.exists() else "")
        return 1024 * int(found[1]) if found else 0


def windows_of(model: LatentInpainter, count: int) -> Windows:
    """Return windows of noise, in place of encoded ones."""
    side, latents = model.latent_side, (count, model.latent_channels, model.latent_side, model.latent_side)
    generator = torch.Generator().manual_seed(1)
    region = torch.zeros(count, 1, side, side)
    region[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    fine = torch.zeros(count, 1, UPSCALE * side, UPSCALE * side)
    x0, masked = (torch.randn(latents, generator=generator) for _ in range(2))
    tokens = model.tokens([PROMPT] * count)
    return Windows(x0, region, region / 2, masked, torch.zeros(count, 2), tokens, fine, fine, fine)


def bytes_kept(work: Callable[[], Any], model: LatentInpainter) -> tuple[int, Any]:
    """Return the bytes that autograd keeps for the backward pass besides the model's own, and what the work returns."""
    own = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        result = work()
    return sum(kept.values()), result


def training(model: LatentInpainter, meter: Meter, rows: int, checkpointing: bool, iterations: int) -> dict[str, Any]:
    """Train low-rank updates of rank 16 and the columns of one mask and of scale; return time and memory of a step."""
    config = DenoiserConfig(lora_rank=16, batch_size=rows, iterations=iterations, checkpointing=checkpointing)
    windows = windows_of(model, rows)
    with tempfile.TemporaryDirectory() as scratch:  # a checkpoint of before would be taken up
        kept, found = bytes_kept(
            lambda: meter.measure(lambda: train_painter(model, [(windows, 1.0)], config, Path(scratch))), model
        )
    row = {"rows": rows, "checkpointing": checkpointing, "ms": round(1000 * found.pop("seconds") / iterations)}
    return {**row, **found, "kept_gib": round(kept / GIGA, 3) if iterations == 1 and not checkpointing else None}


@torch.no_grad()
def painting(model: LatentInpainter, meter: Meter, steps: int) -> dict[str, Any]:
    """Paint one window with our sampler, pixels to pixels; return time and memory."""
    side = model.window
    image, region = torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side)
    region[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    mask = torch.zeros(1, max(1, model.classes), side, side)
    denoiser = Guided(model, model.embed([""]), GUIDANCE, 1.0, switch=len(model.schedule.alpha_bar))  # text alone
    parts: dict[str, float] = {}

    def work() -> None:
        started = time.monotonic()
        told = model.condition(image, region, mask, torch.zeros(1, 2), model.embed([PROMPT]))
        parts["encode_ms"] = time.monotonic() - started
        *_, last = sample(denoiser, model.noise([0]), told, model.schedule, steps)
        parts["steps_ms"] = time.monotonic() - started - parts["encode_ms"]
        model.decode(last.x_next)
        parts["decode_ms"] = time.monotonic() - started - parts["encode_ms"] - parts["steps_ms"]

    found = meter.measure(work)
    row = {"what": "ours", "steps": steps, "ms": round(1000 * found.pop("seconds"))}
    return {**row, **{name: round(1000 * value) for name, value in parts.items()}, **found}


def painting_of_diffusers(model: LatentInpainter, meter: Meter, steps: int) -> dict[str, Any]:
    """Paint one window with diffusers' pipeline in the same precision as ours; return time and memory."""
    parts = {"unet": model.unet, "vae": model.codec, "text_encoder": model.text_encoder, "tokenizer": model.tokenizer}
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = StableDiffusionInpaintPipeline(**parts, scheduler=model.scheduler, **without)
    pipeline.set_progress_bar_config(disable=True)
    side = model.window
    image, region = torch.zeros(1, 3, side, side), torch.zeros(1, 1, side, side)
    region[:, :, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    sizes = {"height": side, "width": side, "output_type": "pt", "num_inference_steps": steps}

    def work() -> None:
        with autocast(model.device):
            pipeline(PROMPT, image=image, mask_image=region, guidance_scale=GUIDANCE, strength=1.0, **sizes)

    found = meter.measure(work)
    return {"what": "diffusers", "steps": steps, "ms": round(1000 * found.pop("seconds")), **found}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # the pipeline's, about its scheduler's config
    logging.getLogger("diffusers").setLevel(logging.ERROR)

    device = device_of(given.device)
    meter, model = Meter(device), model_of(given.quick).to(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    sizes = {
        part: sum(p.numel() for p in getattr(model, part).parameters()) for part in ("unet", "codec", "text_encoder")
    }
    results: dict[str, Any] = {
        "device": name,
        "threads": torch.get_num_threads(),
        "parameters": sizes,
        "once": given.once,
    }
    print(results, flush=True)

    def note(kind: str, row: dict[str, Any]) -> None:
        results.setdefault(kind, []).append(row)
        print(kind, row, flush=True)
        write_json(make_folder(given.out) / "stable_diffusion.json", results)

    # Painting first: what a training leaves in the caches would count.
    once = given.once
    if not once:
        painting(model, meter, 1)  # the first time is slower
    for steps in (1,) if once else THEIRS:
        note("painting", painting_of_diffusers(model, meter, steps))
    model.add_masks(1)
    note("painting", painting(model, meter, 1 if once else OURS))
    for rows in (1,) if once or given.quick else (1, 2, 4, 8):
        for checkpointing in (True, False):
            try:
                if not once:
                    training(model, meter, rows, checkpointing, 1)
                note("training", training(model, meter, rows, checkpointing, 1 if once else 10))
            except torch.cuda.OutOfMemoryError:
                note("training", {"rows": rows, "checkpointing": checkpointing, "ms": None, "peak_gib": None})
                model = model_of(given.quick).to(device)  # the other was left with its updates half applied
                model.add_masks(1)


if __name__ == "__main__":
    main()
