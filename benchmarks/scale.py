"""How large sets are handled: the review page, workers of every kind, and the memory of what reads a set.

Takes 7 minutes on two cores with AVX-512, and some 15 without. Run it on an idle machine: seconds and ratios of
a busy one mean little.

Usage: python benchmarks/scale.py --out DIR [--quick] [--only review|workers|stream]

    DIR      gets scale.json. A section adds its keys and leaves those of others, so sections can be run one by one.
    --quick  a hundredth of the size, or less, to see that everything runs; its numbers mean nothing.

Sections:
    review   `diffaug review` of a set of 100,000 rows, in headless Chromium: needs the extra `dev` and Chromium.
             The rows are written, not painted; each shows one of 64 pictures of noise, 256 px.
             review_open_s       from the start of reading until the first cards with a picture are in the page
             review_all_rows_s   the same until every row can be filtered and sorted
             review_key_ms       median time from a key (R) until the page says that the decision is recorded; 30 keys
             review_key_most_ms  the longest of them
             review_sort_ms      from choosing an order of all rows until the list shows it
             review_scroll_ms    from the key End until the last card is in the page
             review_peak_mb      memory of the server's process beside what it had before
             review_rows         rows of the set
             review_open_cpu_s, review_key_cpu_ms  computing of the server's process in the same times: what is left of
                                 them where nothing else runs, beside the browser's own work
             review_load         the machine's load when the section began: times of a busy machine mean little
    workers  painting by worker processes and by a local Ray cluster, on phantoms, in turns: needs the extra `ray`.
             ray_over_processes  throughput of two Ray workers over that of two worker processes, median of 3 turns
             ray_two_over_one    throughput of two Ray workers over that of one
             ray_two_over_simulated  seconds of two Ray workers over those that `cluster.py` simulates for their shards
             workers_seconds     of each turn; workers_shards shards in each
             identical           whether one process, two, Ray, and three shard ranges write the same files
             killed_worker_lost  files that a set lacks, or has otherwise, after one of its Ray workers was killed
             killed_worker_was_killed  whether one was, so that the number above means something
    stream   `select`, `audit` and `export` of sets of 2,500 and of 50,000 kept lesions, see `scale_stream.py`; an audit
             against a data set has 1,100 and 1,400, since each lesion is compared with all training lesions.
             stream_growth_mb    how much more memory the larger set takes at its peak, largest of the commands
             stream_growth_by_command_mb  the same of each command
             stream              rows, peak MB and seconds of each command and size
"""

import argparse
import os
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scale_workers import measure_workers

from diffaug.artifacts import make_folder, read_json, write_json
from diffaug.data.images import write_png
from diffaug.data.manifest import MANIFEST, SUMMARY, Row, text_of_rows
from diffaug.data.request import Check, MaskTransform, Request, Scores

ROWS = 100_000
PICTURES = 64
WAIT = 300_000  # ms for the browser on a busy machine


def write_rows_only(folder: Path, count: int) -> Path:
    """Write a finished synthetic set of many rows that share a few pictures."""
    shard = make_folder(folder / "shards" / "00000")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        write_png(shard / f"{number:02d}.png", rng.integers(0, 256, (256, 256, 3), dtype=np.uint8), settled=False)
        mask = np.zeros((256, 256), np.uint8)
        mask[60 + number : 150, 60:150] = 255
        write_png(shard / f"{number:02d}_mask.png", mask, settled=False)
    request = Request(
        0, "ID", 0, "train-0", "train-1", 0, "free", MaskTransform(), 60, 60, "a small pale polyp", "small"
    )
    checks = Check(5, 500, 0.25, 0.2), Check(10, 0, 0.125, 0.1)
    row = Row(
        request, "kept", "the agreement reaches its threshold", 10, checks, (0, 0, 256), "m" * 16, "v" * 16, "c" * 16
    )
    row = replace(row, image="shards/00000/NN.png", mask="shards/00000/NN_mask.png", image_digest="a" * 16)
    row = replace(row, scores=Scores(0.3, 1.5, True, (0.5,) * 7), look=Check(10, 0, 0.75, 0.5))
    line = text_of_rows([row])
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for number in range(count):
            changed = line.replace('"ID"', f'"synth-{number:06d}"').replace("NN", f"{number % PICTURES:02d}")
            file.write(changed.replace("0.125", f"{rng.random():.6f}"))
    write_json(folder / SUMMARY, {"lesions": {"requested": count}, "negatives": {"requested": 0}})
    return folder


def measure_review(work: Path, quick: bool) -> dict[str, Any]:
    """Measure the page of a review in a browser."""
    from playwright.sync_api import sync_playwright

    from diffaug.review.server import Desk, review_application, running

    count = ROWS // 100 if quick else ROWS
    folder = write_rows_only(work / "set", count)
    load = os.getloadavg()[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(WAIT)
        begun = time.perf_counter(), time.process_time()
        with running(review_application(Desk(folder, None, "benchmark"))) as server:
            thread = threading.Thread(target=server.serve)
            thread.start()
            try:
                found = _measure_page(page, server.address, begun, count)
            finally:
                server.stop()
                thread.join()
        browser.close()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {**found, "review_peak_mb": round(peak), "review_rows": count, "review_load": round(load, 1)}


def _measure_page(page: Any, address: str, begun: tuple[float, float], count: int) -> dict[str, float]:
    started, computing = begun
    page.goto(address, wait_until="commit")
    page.wait_for_selector(".card img")
    page.evaluate("document.querySelector('.card img').decode()")
    opened, computed = time.perf_counter() - started, time.process_time() - computing
    page.wait_for_selector("body[data-read=all]")
    read = time.perf_counter() - started
    page.focus("#grid")
    computing = time.process_time()
    keys = [page.evaluate(TO_ANSWER, ["r", "#status", "is rejected"]) for _ in range(30)]
    of_keys = time.process_time() - computing
    page.evaluate("document.getElementById('status').textContent = ''")
    order = page.evaluate(TO_ORDER)
    last = page.evaluate(TO_ANSWER, ["End", f"[aria-posinset='{count}']", ""])
    return {
        "review_open_s": round(opened, 3),
        "review_all_rows_s": round(read, 3),
        "review_key_ms": round(statistics.median(keys), 1),
        "review_key_most_ms": round(max(keys), 1),
        "review_open_cpu_s": round(computed, 3),
        "review_key_cpu_ms": round(1000 * of_keys / len(keys), 1),
        "review_sort_ms": round(order, 1),
        "review_scroll_ms": round(last, 1),
    }


# Press a key in the page, and return the ms until an element that holds a text, other than before, is drawn.
TO_ANSWER = """([key, place, text]) => new Promise(done => {
  const before = document.querySelector(place)?.textContent, started = performance.now();
  document.getElementById('grid').dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  const look = () => {
    const now = document.querySelector(place)?.textContent;
    const answered = now !== undefined && now !== before && now.includes(text);
    if (!answered) setTimeout(look, 1);
    else requestAnimationFrame(() => done(performance.now() - started));
  };
  look();
})"""
TO_ORDER = """() => new Promise(done => {
  const control = document.getElementById('sort'), started = performance.now();
  control.value = 'score';
  control.dispatchEvent(new Event('change'));
  requestAnimationFrame(() => done(performance.now() - started));
})"""


def measure_memory(work: Path, quick: bool) -> dict[str, Any]:
    """Measure the peak memory of commands on sets of two sizes."""
    from scale_stream import measure_stream  # imports torch

    return measure_stream(work, quick)


SECTIONS: Mapping[str, Callable[[Path, bool], dict[str, Any]]] = {
    "review": measure_review,
    "workers": measure_workers,
    "stream": measure_memory,
}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=SECTIONS)
    given = parser.parse_args()
    path = make_folder(given.out) / "scale.json"
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    for name in [given.only] if given.only else SECTIONS:
        work = given.out / f"work-{name}"
        shutil.rmtree(work, ignore_errors=True)
        found |= SECTIONS[name](work, given.quick)
        shutil.rmtree(work)
        write_json(path, found)
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
