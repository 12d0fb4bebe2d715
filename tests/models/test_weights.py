"""The weights that the package ships."""

from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from diffaug.conditioning.prompts import NORMAL_PROMPT
from diffaug.data.phantom import phantom_of_index
from diffaug.data.seen import read_seen
from diffaug.models.base import LatentInpainter
from diffaug.models.loading import load_model
from diffaug.training.codec import measure_codec
from diffaug.training.starting import SHIPPED


@pytest.fixture(scope="module")
def prior() -> LatentInpainter:
    return load_model(SHIPPED)


def test_the_shipped_weights_are_safetensors_shards_of_at_most_15_mb_and_30_mb_in_all() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30_000_000
    assert max(path.stat().st_size for path in files) <= 15_000_000
    assert not {path.suffix for path in files} & {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("vae", AutoencoderTiny),
        ("unet", UNet2DConditionModel),
        ("text_encoder", CLIPTextModel),
        ("tokenizer", CLIPTokenizer),
        ("scheduler", DDIMScheduler),
    ],
)
def test_every_shipped_part_loads_with_its_librarys_own_from_pretrained(part: str, kind: type) -> None:
    kind.from_pretrained(SHIPPED / part, local_files_only=True)  # type: ignore[attr-defined]


def test_the_shipped_codec_keeps_what_it_is_shown(prior: LatentInpainter) -> None:
    scenes = [phantom_of_index("train", index, 256).image for index in range(4)]
    measured = measure_codec(prior.reconstruct, scenes, prior.window, windows=8)
    assert measured.psnr_db > 31 and measured.ssim > 0.88


def test_the_shipped_tokenizer_knows_its_words_and_the_card_states_data_and_terms(prior: LatentInpainter) -> None:
    assert len(prior.tokenizer(NORMAL_PROMPT).input_ids) == 4  # two words between start and end
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "Kvasir-SEG" in card and "research and education" in card
    notice = Path(SHIPPED.parents[3] / "NOTICE").read_text(encoding="utf-8")
    assert "research and education" in notice


def test_the_shipped_weights_say_which_images_they_have_seen() -> None:
    seen = read_seen(SHIPPED)
    assert seen.complete and len(seen.sketches) == 600 and not seen.annotated.any()


def test_latents_of_the_shipped_codec_have_about_unit_variance(prior: LatentInpainter) -> None:
    from diffaug.painting.window import tensor_from_pixels

    image = np.asarray(phantom_of_index("train", 0, 256).image)
    latents = prior.encode(tensor_from_pixels(image)[:, :, :128, :128])
    assert 0.3 < float(latents.std()) < 3
