"""The critic of a painter: what readers have taught, with a threshold from what the painter paints."""

from collections.abc import Iterable
from itertools import islice

from diffaug.data.request import Request
from diffaug.painting.engine import Painted
from diffaug.painting.layout import Layout
from diffaug.painting.looks import features_in, origins_of
from diffaug.painting.painter import Painter
from diffaug.realism.critic import Critic, critic_for
from diffaug.realism.features import Features

Sample = tuple[Request, Layout, Painted]


def find_critic(painter: Painter, samples: Iterable[Sample]) -> Critic | None:
    """Return the critic of a painter; None where its domain was not read, or too little was painted.

    Args:
        painter: Decodes and blends the samples, and knows what its images show.
        samples: Painted to the end, without a gate.
    """
    features, requests = painted_lesions(painter, samples)
    sizes, examples = [request.size_bin for request in requests], [origins_of(request)[1] for request in requests]
    return critic_for(painter.rules.domain, features, sizes, examples)


def painted_lesions(painter: Painter, samples: Iterable[Sample]) -> tuple[list[Features], list[Request]]:
    """Return the features of painted lesions and their requests.

    They are decoded a batch at a time, so that memory holds features only.
    """
    found, requests, waiting = list[Features](), list[Request](), iter(samples)
    for batch in iter(lambda: list(islice(waiting, painter.slots)), []):
        pictures = painter.pictures([layout for _, layout, _ in batch], [sample for _, _, sample in batch])
        found += [
            features_in(picture, layout.masks.new) for (_, layout, _), picture in zip(batch, pictures, strict=True)
        ]
        requests += [request for request, _, _ in batch]
    return found, requests
