import json
from dataclasses import asdict

import numpy as np
from pydantic import TypeAdapter

from diffaug.conditioning.masks import MaskBank
from diffaug.conditioning.request import masks_of_request, seed_of_request
from diffaug.config import GenerateConfig
from diffaug.data.manifest import Request

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
        again = masks_of_request(request, bank, drawer.backgrounds.lesion(request.background))
        np.testing.assert_array_equal(again.label, drawer.masks(request).label)
