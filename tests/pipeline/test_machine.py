"""What a dry run finds out about a machine does not depend on what else runs there."""

import os

import pytest
import torch

from diffaug.pipeline import machine
from diffaug.pipeline.machine import Look, busy, painter_milliseconds


def test_a_step_is_timed_on_one_thread_and_the_threads_of_a_fit_share_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = list[int]()

    def timed(step: object, kind: str) -> float:
        threads.append(torch.get_num_threads())
        return 30.0

    monkeypatch.setattr(machine, "_timed", timed)
    assert painter_milliseconds.__wrapped__("cpu") == 30.0 and threads == [1]
    look = Look(painter=30.0, threads=3)
    assert (look.row, look.row_of_thread) == (10.0, 30.0)


def test_a_machine_is_busy_where_processes_take_most_of_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for load, found in ((0.1, None), (1.4, None), (5.0, 2.5)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        assert busy() == found
    monkeypatch.delattr(os, "getloadavg")
    assert busy() is None
