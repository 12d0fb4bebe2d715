import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from diffaug.conditioning.masks import MaskBank, MaskEntry
from diffaug.conditioning.request import Placed, masks_of_request, seed_of_request
from diffaug.config import GenerateConfig
from diffaug.data.request import MaskTransform, Request

CONFIG = GenerateConfig(negatives=0.0)


def test_ids_and_seeds_are_unique(requests):
    assert len({request.id for request in requests}) == len({request.seed for request in requests}) == 60
    assert requests[12].id == "synth-00012"
    assert requests[12].seed == seed_of_request(0, 12) < 2**63


def test_a_request_survives_json(requests, with_findings):
    for request in (*requests, *with_findings):
        stored = json.loads(json.dumps(asdict(request)))
        assert TypeAdapter(Request).validate_python(stored) == request


def test_masks_follow_from_the_row_and_the_bank(cases, drawer, requests):
    bank = MaskBank.from_cases(cases)
    for request in requests[:5]:
        view = drawer.backgrounds.field(request.background, with_text=False) if request.transform.at_edge else None
        again = masks_of_request(request, bank, drawer.backgrounds.lesion(request.background), (), view)
        np.testing.assert_array_equal(again.label, drawer.masks(request).label)


@pytest.mark.parametrize(
    ("transform", "place", "kept"),
    [
        (MaskTransform(), (45, 5), True),  # from the left edge to the left edge
        (MaskTransform(), (45, 85), False),  # to the right, where the lamp lights its other side
        (MaskTransform(flip=True), (45, 85), True),
        (MaskTransform(angle=180.0), (45, 85), True),
        (MaskTransform(), (45, 46), True),  # in the middle it is lit from the front
    ],
)
def test_a_lesion_is_lit_from_where_it_was(transform, place, kept):
    shape = np.ones((10, 10), bool)
    entry = MaskEntry(shape, 45, 2, (100, 100), "train-0", 0)
    placed = Placed(entry, transform, "train-1", "free", *place, shape, place)
    assert placed.keeps_light((100, 100)) == kept
