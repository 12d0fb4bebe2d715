"""Diffusion augmentation for medical image segmentation where annotated lesions are scarce.

cases -> requests -> paint -> gate -> synthetic set -> study -> report

The public names, in that order. They are imported when first used, since torch takes seconds.
"""

import importlib
import importlib.metadata
from typing import Any

_HOMES = {
    "Config": "config",
    "read_config": "config",
    "DiffaugError": "errors",
    "Case": "data.case",
    "Dataset": "data.folder",
    "read_dataset": "data.folder",
    "check_dataset": "data.folder",
    "subset_dataset": "data.folder",
    "Imported": "data.importing",
    "import_dataset": "data.importing",
    "make_phantoms": "data.phantom",
    "inspect_dataset": "data.inspect",
    "Attributes": "conditioning.attributes",
    "measure_attributes": "conditioning.attributes",
    "describe": "conditioning.prompts",
    "library_of": "conditioning.findings",
    "draw_prompts": "conditioning.grammar",
    "Request": "data.manifest",
    "draw_requests": "conditioning.drawer",
    "locate_disc": "data.fundus",
    "LatentInpainter": "models.base",
    "load_model": "models.loading",
    "Conditioning": "diffusion.contract",
    "sample": "diffusion.sampler",
    "Gate": "validator.gate",
    "fit": "training.fit",
    "generate": "synthesis.shards",
    "run_study": "study.run",
    "write_report": "report.page",
    "run_pipeline": "pipeline.run",
}

__all__ = list(_HOMES)
__version__ = importlib.metadata.version("diffaug")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffaug' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diffaug.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
