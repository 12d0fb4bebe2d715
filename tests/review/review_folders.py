"""Synthetic sets to review, and servers for them that run in a thread."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from study_folders import make_synthetic, row_of

from diffaug.artifacts import write_json
from diffaug.data.funnel import funnel
from diffaug.data.manifest import MANIFEST, SUMMARY, read_rows, write_rows
from diffaug.review.server import Desk, review_application, running


def make_set(folder: Path, data: Path, kept: int = 9) -> Path:
    """Write a synthetic set of pictures, two turned down: one with a small picture, and one that was stopped."""
    make_synthetic(folder, kept=kept, data=data)
    rows = list(read_rows(folder / MANIFEST))
    stopped = replace(row_of(len(rows), ("train-0",)), decision="stopped", reason="unlikely to pass", steps=3)
    sizes = ("small", "medium", "large")
    rows = [replace(row, request=replace(row.request, size_bin=sizes[n % 3])) for n, row in enumerate([*rows, stopped])]
    write_rows(folder / MANIFEST, rows)
    write_json(folder / SUMMARY, {**funnel(rows).as_dict(), "seconds": 9.0})
    return folder


@dataclass
class Served:
    """A set that is served."""

    folder: Path
    desk: Desk
    address: str

    @property
    def port(self) -> int:
        return int(self.address.split(":")[2].split("/")[0])

    @property
    def token(self) -> str:
        return self.address.split("/")[3]


@contextlib.contextmanager
def serving(application, folder: Path, desk: Desk | None = None) -> Iterator[Served]:
    with running(application) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield Served(folder, desk, server.address)
        finally:
            server.stop()
            thread.join()


@contextlib.contextmanager
def reviewing(folder: Path, data: Path | None = None) -> Iterator[Served]:
    desk = Desk(folder, data, "Anna")
    with serving(review_application(desk), folder, desk) as served:
        yield served
