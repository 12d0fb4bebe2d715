"""Lesions that are added while a case is loaded: drawn, applied, recorded."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from monai.utils import set_determinism

from diffaug.augment.datasets import CaseDataset
from diffaug.augment.transforms import OnArrays, RandPaintLesiond, RandPasteLesiond, pasted
from diffaug.data.folder import read_dataset
from diffaug.errors import DataError, ModelError, ShapeError

KEYS = ("image", "label")


def make(kind, painter, phantoms, **options):
    if kind == "paste":
        return RandPasteLesiond(KEYS, phantoms, **options)
    return RandPaintLesiond(KEYS, painter, phantoms, gate=False, **options)


@pytest.fixture(params=["paste", "paint"])
def kind(request):
    return request.param


def test_a_lesion_is_added_and_nothing_else_changes(kind, painter, phantoms, items):
    transform, added = make(kind, painter, phantoms, prob=1.0).set_random_state(seed=1), 0
    for item in list(items)[:4]:
        before = {key: item[key].clone() for key in KEYS}
        new = transform(item)
        assert all(torch.equal(item[key], before[key]) for key in KEYS), "the case that came in is left alone"
        assert new[transform.record]["lesion"].startswith("train-")
        assert new["image"].min() >= 0 and new["image"].max() <= 1
        assert set(new["label"].unique().tolist()) <= {0.0, 1.0}
        changed = (new["image"] != item["image"]).any(dim=0)
        labelled = (new["label"] != item["label"]).any(dim=0)
        assert bool(changed.any()) == (new[transform.record]["decision"] in ("kept", "rejected"))
        assert changed.float().mean() < 0.7
        added += int(labelled.any())
    assert added >= 2


def test_the_same_random_state_gives_the_same_bytes_and_another_one_others(kind, painter, phantoms, items):
    transform = make(kind, painter, phantoms, prob=1.0)
    first, again, other = (transform.set_random_state(seed=seed)(items[0]) for seed in (3, 3, 4))
    assert torch.equal(first["image"], again["image"]) and first[transform.record] == again[transform.record]
    assert (
        not torch.equal(first["image"], other["image"])
        and first[transform.record]["seed"] != other[transform.record]["seed"]
    )


def test_as_much_is_drawn_whether_a_lesion_is_added_or_not(painter, phantoms, items):
    never, always = (RandPasteLesiond(KEYS, phantoms, prob=prob).set_random_state(seed=5) for prob in (0.0, 1.0))
    seeds = [[transform(items[0])["pasted"]["seed"] for _ in range(4)] for transform in (never, always)]
    assert seeds[0] == seeds[1]
    new = never(items[0])
    assert new["pasted"]["decision"] == "off" and torch.equal(new["image"], items[0]["image"])


def test_lesions_are_added_as_often_as_asked(phantoms, items):
    transform = RandPasteLesiond(KEYS, phantoms, prob=0.3).set_random_state(seed=0)
    done = sum(transform(items[index % 8])["pasted"]["decision"] != "off" for index in range(200))
    assert 40 < done < 80


def test_the_image_keeps_its_type_its_metadata_and_its_channels(painter, phantoms, items, kind):
    item = items[1]
    seen = {}
    for name, image, white in (
        ("float", item["image"].numpy(), 1.0), ("bytes", (item["image"] * 255).round().to(torch.uint8), 255),
        ("metadata", MetaTensor(item["image"] * 255, meta={"filename": "a.png"}), 255),
        ("grey", item["image"][:1].clone(), 1.0),
    ):  # fmt: skip
        transform = make(kind, painter, phantoms, prob=1.0, white=white).set_random_state(seed=2)
        new = transform({"image": image, "label": item["label"]})
        assert (
            type(new["image"]) is type(image)
            and new["image"].dtype == image.dtype
            and new["image"].shape == image.shape
        )
        seen[name] = np.asarray(new["image"]) / white
        if name == "metadata":
            assert new["image"].meta["filename"] == "a.png"
    assert np.abs(seen["float"] - seen["bytes"]).max() < 0.01
    assert np.abs(seen["float"] - seen["metadata"]).max() < 0.01


def test_frames_that_are_not_square_and_of_other_sizes_take_lesions_in_their_shape():
    frame = np.full((3, 60, 90), 0.5, np.float32)
    source, classes = np.full((3, 200, 100), 0.9, np.float32), np.zeros((1, 200, 100), bool)
    classes[0, 80:120, 30:70] = True
    found = pasted(frame, np.zeros((1, 60, 90), bool), source, classes, 7)
    assert found.image.shape == frame.shape and found.masks.shape == (1, 60, 90)
    assert np.array_equal(found.masks[0], found.new) and found.new.any()
    assert np.allclose(found.image[:, found.new].max(), 0.9, atol=0.02)
    rows, columns = np.nonzero(found.new)
    assert 0.6 < np.ptp(rows) / np.ptp(columns) < 1.6, "a square stays nearly square"
    assert (found.image[:, ~found.new] <= 0.9).all() and (found.image == frame).mean() > 0.5


def test_two_workers_give_the_same_epochs_again_under_set_determinism(kind, painter, phantoms, cases):
    transform = make(kind, painter, phantoms, prob=0.5)

    def epochs():
        set_determinism(seed=7)
        loader = DataLoader(Dataset(list(CaseDataset(cases)), Compose([transform])), batch_size=2, num_workers=2)
        made = [(batch["image"].clone(), batch[transform.record]["decision"]) for _ in range(2) for batch in loader]
        set_determinism(None)
        return made

    first, again = epochs(), epochs()
    assert all(torch.equal(a, b) and said == told for (a, said), (b, told) in zip(first, again, strict=True))
    half = len(first) // 2
    assert any(not torch.equal(a, b) for (a, _), (b, _) in zip(first[:half], first[half:], strict=True))
    decisions = {one for _, told in first for one in told}
    assert "off" in decisions and len(decisions) > 1


def test_a_model_folder_is_loaded_by_the_process_that_paints(fitted, phantoms, cases):
    transform = RandPaintLesiond(KEYS, fitted, phantoms, prob=1.0, gate=False)
    loader = DataLoader(Dataset(list(CaseDataset(cases))[:2], transform), batch_size=2, num_workers=1)
    (batch,) = loader
    assert set(batch["painted"]["decision"]) <= {"kept", "rejected", "off tissue"}


def test_what_the_validators_turn_down_leaves_the_case_as_it_was(painter, phantoms, items):
    strict = RandPaintLesiond(KEYS, painter, phantoms, prob=1.0)
    for seed in range(6):
        new = strict.set_random_state(seed=seed)(items[0])
        if new["painted"]["decision"] != "kept":
            assert torch.equal(new["image"], items[0]["image"]) and torch.equal(new["label"], items[0]["label"])


def test_without_a_data_set_the_images_own_lesion_is_taken_and_where_there_is_none_nothing_happens(items):
    transform = RandPasteLesiond(KEYS, prob=1.0).set_random_state(seed=0)
    record = transform(items[0])["pasted"]
    assert (record["decision"], record["lesion"]) == ("kept", "")
    bare = {"image": items[0]["image"], "label": torch.zeros_like(items[0]["label"])}
    new = transform(bare)
    assert new["pasted"]["decision"] == "no lesion" and torch.equal(new["image"], bare["image"])


def test_plain_arrays_get_what_the_dictionary_gets_with_the_channels_last(kind, painter, phantoms, cases):
    image, mask = cases[0].read_image(), cases[0].read_mask()
    new = OnArrays(make(kind, painter, phantoms, prob=1.0, white=255), seed=4)(image=image, mask=mask)
    again = make(kind, painter, phantoms, prob=1.0, white=255).set_random_state(seed=4)
    expected = again({"image": image.transpose(2, 0, 1), "label": mask[None]})
    assert new["image"].dtype == np.uint8 and np.array_equal(new["image"].transpose(2, 0, 1), expected["image"])
    assert new["mask"].dtype == bool and np.array_equal(new["mask"], expected["label"][0])
    assert new[again.record] == expected[again.record]
    for wrong in (image / 255.0, image.transpose(2, 0, 1)):
        with pytest.raises((DataError, ShapeError), match="an image "):
            OnArrays(make(kind, painter, phantoms))(image=wrong, mask=mask)


def test_classes_inside_each_other_move_together_onto_the_images_own(eyes):
    items = CaseDataset(read_dataset(eyes).annotated("train"))
    transform = RandPasteLesiond(KEYS, eyes, prob=1.0).set_random_state(seed=0)
    new = transform(items[0])
    disc, cup = new["label"] > 0
    assert not (cup & ~disc).any() and disc.any()
    own = items[0]["label"][0] > 0
    assert (disc & own).sum() / own.sum() > 0.6


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda item: {"image": item["image"].permute(1, 2, 0)}, ShapeError, "put the channels first"),
        (lambda item: {"image": item["image"] * 255}, DataError, "set white=255"),
        (lambda item: {"image": item["image"] - 0.5}, DataError, "before intensities are normalised"),
        (lambda item: {"label": item["label"] * 255}, DataError, "holds 255"),
        (lambda item: {"label": item["label"][0]}, ShapeError, "put a channel first"),
        (lambda item: {"label": item["label"][:, :20]}, ShapeError, "scale image and label alike"),
        (lambda item: {"label": item["label"].repeat(2, 1, 1)}, ShapeError, "a mask for each class"),
    ],
)
def test_an_image_or_a_label_of_another_kind_is_one_line(items, phantoms, change, error, told):
    transform = RandPasteLesiond(KEYS, phantoms, prob=1.0)
    with pytest.raises(error, match=told) as raised:
        transform({**items[0], **change(items[0])})
    assert "\n" not in str(raised.value)


def test_bytes_that_are_said_to_be_255_but_end_at_1_are_refused(items, phantoms):
    with pytest.raises(DataError, match="set white=255 or white=1"):
        RandPasteLesiond(KEYS, phantoms, white=255)(items[0])


def test_a_model_that_is_not_there_and_a_data_set_without_lesions_are_refused_before_training(tmp_path, phantoms):
    with pytest.raises(ModelError):
        RandPaintLesiond(KEYS, tmp_path / "nothing", phantoms)
    with pytest.raises(DataError):
        RandPasteLesiond(KEYS, tmp_path)
