import subprocess
import sys
import time

import pytest

from diffaug.compute.progress import minute_lines, progress_bar, tracked


def test_items_come_through_as_they_are():
    assert list(tracked("abc", 3, "letters")) == list(tracked("abc", 3, "")) == ["a", "b", "c"]


def test_short_work_says_nothing_where_stderr_is_no_terminal(capfd):
    with progress_bar("work", 3) as show:
        show(2)
        show(3, "more work")
    assert list(tracked(range(2), 2, "numbers")) == [0, 1]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets: its only entry is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def said_at(clock, caplog, total, times, done=0):
    """Return what a bar logs when so much is done at so many seconds."""
    caplog.set_level("INFO", "diffaug")
    with progress_bar("work", total, done=done) as show:
        for clock[0], each in times.items():
            show(each)
    return caplog.messages


def test_long_work_logs_a_line_a_minute_with_the_time_that_is_left(clock, caplog):
    times = {30.0: 150, 60.0: 200, 100.0: 267, 120.0: 300, 480.0: 900, 540.0: 1000}
    assert said_at(clock, caplog, 1000, times, done=100) == [
        "work: 200 of 1000, about 8 min left", "work: 300 of 1000, about 7 min left",
        "work: 900 of 1000, about 1 min left", "work: 1000 of 1000",
    ]  # fmt: skip


def test_a_few_steps_tell_no_time_that_is_left(clock, caplog):
    assert said_at(clock, caplog, 54, {73.0: 1, 150.0: 4, 211.0: 5}) == [
        "work: 1 of 54", "work: 4 of 54", "work: 5 of 54, about 34 min left",
    ]  # fmt: skip


@pytest.mark.parametrize(("total", "needed"), [(10, 5), (400, 20), (10_000, 50)])
def test_the_time_left_needs_five_steps_and_a_twentieth_but_no_more_than_fifty(clock, caplog, total, needed):
    first, then = said_at(clock, caplog, total, {60.0: needed - 1, 120.0: needed})
    assert first == f"work: {needed - 1} of {total}" and then.endswith(" min left")


def test_a_slow_start_is_forgotten(clock, caplog):
    """At a step a second, after one step of 20 minutes: 19 minutes are left, of which the mean of all makes 47."""
    times = {1200.0: 1} | {1200.0 + second: 1 + second for second in range(1, 900)}
    last = said_at(clock, caplog, 2000, times)[-1]
    assert last.startswith("work: 841 of 2000, about ")
    assert 19 <= int(last.split()[-3]) <= 29


def test_a_command_logs_a_line_a_minute_over_all_its_bars(caplog, monkeypatch):
    caplog.set_level("INFO", "diffaug")
    monkeypatch.setattr("diffaug.compute.progress.EVERY", 0.1)

    def wait(line):
        while line not in caplog.messages:
            time.sleep(0.01)

    with minute_lines():
        wait("at work: reading and preparing")
        for stage in ("codec", "painter"):
            with progress_bar(stage, 8) as show:
                show(3)
                wait(f"{stage}: 3 of 8")
        wait("at work, after painter")
    told = len(caplog.messages)
    time.sleep(0.25)
    assert len(caplog.messages) == told, "after the command nothing is said"


def test_a_short_command_says_nothing(capfd):
    with minute_lines(), progress_bar("work", 8) as show:
        show(3)
    assert capfd.readouterr() == ("", "")


class _Shell:
    """Stands for IPython in a kernel: keeps what a cell shows."""

    kernel = object()

    def __init__(self):
        self.shown = []

    def get_ipython(self):
        return self

    def HTML(self, text):  # noqa: N802 - the name of IPython's class
        return text

    def display(self, text, display_id):
        self.shown.append(text)
        return self

    def update(self, text):
        self.shown.append(text)


def test_a_cell_of_a_notebook_shows_a_bar_and_keeps_nothing_of_it(capfd, clock, monkeypatch):
    shell = _Shell()
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shell)
    with progress_bar("kept <cases>", 40) as show:
        clock[0] = 0.1
        show(1)  # too soon after the start
        clock[0] = 1.0
        show(12)
    bar = '<progress value="12" max="40"></progress> kept &lt;cases&gt;: 12 of 40'
    assert shell.shown == ["", bar, ""]
    assert capfd.readouterr() == ("", "")


def test_only_the_first_of_several_processes_shows_anything(capfd, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("diffaug.compute.progress.EVERY", 0.0)
    assert list(tracked(range(2), 2, "numbers")) == [0, 1]
    assert capfd.readouterr() == ("", "")


def test_a_bar_imports_no_torch():
    code = "import sys, diffaug.compute.progress, diffaug.compute.cluster; assert not {'torch', 'ray'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
