"""How long it takes to draw requests, beside how long it takes to paint them, on one core.

python benchmarks/drawing.py MODEL DATA --requests 200

MODEL is a model that was fitted on DATA; how well it is trained does not matter. Drawing starts cold: reading and
analysing every image counts, shared among the requests. Painting is laying out, sampling, decoding and blending of some
lesions, after a first one that warms up. Aim: a request is drawn in under a tenth of the time that a lesion is painted.
"""

import argparse
import time
from pathlib import Path

from diffaug.conditioning.drawer import RequestDrawer
from diffaug.config import GenerateConfig
from diffaug.data.folder import read_dataset
from diffaug.painting.requests import paint_requests
from diffaug.synthesis.plan import fitted_cases, make_plan
from diffaug.synthesis.shards import workshop_of

PAINTED = 16  # lesions


def seconds_of_drawing(data: Path, model: Path, count: int) -> tuple[float, float]:
    """Return CPU seconds a request, of all from a cold start, and of the second half."""
    workshop = workshop_of(make_plan(model, data, GenerateConfig(), 0))
    cases = fitted_cases(read_dataset(data), workshop.painter.calibration)
    start = time.process_time()
    drawer = RequestDrawer(cases, 1, GenerateConfig())
    for index in range(count // 2):
        drawer.draw(index)
    middle = time.process_time()
    for index in range(count // 2, count):
        drawer.draw(index)
    end = time.process_time()
    return (end - start) / count, (end - middle) / (count - count // 2)


def seconds_of_painting(data: Path, model: Path) -> float:
    """Return CPU seconds a lesion, with its layout and its picture."""
    workshop = workshop_of(make_plan(model, data, GenerateConfig(), 0))
    requests, index = [], 0
    while len(requests) < PAINTED + 1:
        request = workshop.maker.drawer.draw(index)
        requests += [] if request.negative or request.placement == "removed" else [request]
        index += 1
    for some in (requests[:1], requests[1:]):
        start = time.process_time()
        made = list(paint_requests(workshop.painter, workshop.maker, some, None))
        workshop.painter.pictures([layout for _, layout, _ in made], [sample for *_, sample in made])
    return (time.process_time() - start) / PAINTED


def main() -> None:
    """Print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    asked = parser.parse_args()
    painting = seconds_of_painting(asked.data, asked.model)
    drawing, warm = seconds_of_drawing(asked.data, asked.model, asked.requests)
    print(f"drawing: {1000 * drawing:.1f} ms a request from a cold start, {1000 * warm:.1f} ms in the second half")
    print(f"painting: {1000 * painting:.1f} ms a lesion")
    print(f"ratio: {drawing / painting:.3f} cold, {warm / painting:.3f} warm")


if __name__ == "__main__":
    main()
