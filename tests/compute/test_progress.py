import subprocess
import sys

from diffaug.compute.progress import progress_bar, tracked


def test_items_come_through_as_they_are():
    assert list(tracked("abc", 3, "letters")) == list(tracked("abc", 3, "")) == ["a", "b", "c"]


def test_short_work_says_nothing_where_stderr_is_no_terminal(capfd):
    with progress_bar("work", 3) as show:
        show(2)
        show(3, "more work")
    assert list(tracked(range(2), 2, "numbers")) == [0, 1]
    assert capfd.readouterr() == ("", "")


def test_long_work_logs_a_line_a_minute_with_the_time_that_is_left(caplog, monkeypatch):
    caplog.set_level("INFO", "diffaug")
    clock = iter([0.0, 30.0, 70.0, 100.0, 131.0, 191.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar("work", 1000, done=100) as show:
        show(150)
        show(240)
        show(300)
        show(400, "more work")
        show(1000)
    assert caplog.messages == [
        "work: 240 of 1000, about 6 min left", "more work: 400 of 1000, about 4 min left", "more work: 1000 of 1000"
    ]  # fmt: skip


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


def test_a_cell_of_a_notebook_shows_a_bar_and_keeps_nothing_of_it(capfd, monkeypatch):
    shell = _Shell()
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shell)
    clock = iter([0.0, 0.1, 1.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with progress_bar("kept <cases>", 40) as show:
        show(1)  # too soon after the start
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
