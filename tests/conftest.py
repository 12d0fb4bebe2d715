"""Parts that several stages are tested on: phantoms, and models small enough to be made in seconds."""

import os
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests that compare bytes need one number of threads

sys.path.insert(0, str(Path(__file__).parent / "study"))  # study_folders.py, which several stages' tests share

settings.register_profile("patient", deadline=None)  # machines that run tests are often busy
settings.load_profile("patient")


LONGEST = (  # test files of over half a minute
    "test_generate.py",
    "test_study.py",
    "test_run.py",
    "test_benchmarks.py",
    "test_documents.py",
    "test_backgrounds.py",
    "test_fit.py",
    "test_page.py",
    "test_stable_diffusion.py",
    "test_main.py",
    "test_export.py",
    "test_drawer.py",
    "test_globals.py",
    "test_blind.py",
    "test_cvc_clinicdb.py",
    "test_audit.py",
    "test_site.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first: of two processes none then works through one while the other has nothing left."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def full_disk():
    """Hand out a block in which no file can grow over 4 KB: the system answers as on a full disk."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def block():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return block


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight annotated phantoms and two unannotated ones, 128 px."""
    from diffaug.data.phantom import make_phantoms

    folder = tmp_path_factory.mktemp("phantoms") / "dätä set"
    make_phantoms(folder, train=8, val=0, test=0, unannotated=2, size=128)
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The smallest fit that has every stage: 64 px windows, 8 x 8 latents of 4 channels, 4 steps, 2 looks."""
    from diffaug.config import CodecConfig, DenoiserConfig, FitConfig, SamplerConfig, ValidatorConfig

    return FitConfig(
        codec=CodecConfig(window=64, cell=8, latent_channels=4, width=32, blocks=(1, 1), iterations=10, batch_size=4),
        denoiser=DenoiserConfig(
            widths=(16, 32), text_width=32, text_layers=1, windows_per_case=2, iterations=4, batch_size=8
        ),
        validator=ValidatorConfig(
            views_per_case=1,
            folds=2,
            windows_per_case=4,
            iterations=3,
            batch_size=8,
            alpha=0.4,
            delta=0.2,
            trajectories=4,
            floor=0.0,  # a model trained so briefly finds no lesion
        ),
        sampler=SamplerConfig(steps=4),
    )


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, tiny) -> Path:
    """A model folder fitted on the phantoms; too briefly to paint anything, long enough to be whole."""
    from diffaug.training.fit import fit

    folder = tmp_path_factory.mktemp("fitted") / "model"
    fit(phantoms, folder, tiny, base=None)
    return folder


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight drawn optic discs with their cups to train on and three to test on, 96 px."""
    from layouts import write_eyes

    return write_eyes(tmp_path_factory.mktemp("eyes") / "data")


@pytest.fixture(scope="session")
def fitted_eyes(tmp_path_factory: pytest.TempPathFactory, eyes: Path, tiny) -> Path:
    """A model of two classes, fitted on the drawn discs as briefly as `fitted`."""
    from diffaug.training.fit import fit

    folder = tmp_path_factory.mktemp("fitted-eyes") / "model"
    fit(eyes, folder, tiny, base=None)
    return folder


@pytest.fixture(scope="session")
def untrained(tiny):
    """An untrained painter of the tiny configuration whose output is not zero."""
    import torch

    from diffaug.conditioning.prompts import all_prompts
    from diffaug.models.compact import (
        Compact,
        codec_of,
        denoiser_of,
        scheduler_of,
        text_encoder_of,
        tokenizer_of,
        with_scale,
    )

    torch.manual_seed(0)
    tokenizer = tokenizer_of(all_prompts())
    codec = codec_of(tiny.codec).eval().requires_grad_(False)
    with_scale(codec, torch.rand(16, 3, 64, 64) * 2 - 1)
    unet = denoiser_of(tiny.denoiser, 4, 8).eval().requires_grad_(False)
    text_encoder = text_encoder_of(tiny.denoiser, tokenizer).eval().requires_grad_(False)
    return Compact(codec, unet, text_encoder, tokenizer, scheduler_of())


@pytest.fixture(scope="session")
def ray_cluster():
    """A Ray cluster of this machine, to which nodes can be added; this process is connected to it."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'diffaug[dev]'")
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH", "")
    places = [str(Path(__file__).parent / "compute"), str(Path(__file__).parents[1] / "src"), before]
    os.environ |= {"PYTHONPATH": os.pathsep.join(places), "RAY_USAGE_STATS_ENABLED": "0"}  # which its workers get
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    os.environ["PYTHONPATH"] = before
