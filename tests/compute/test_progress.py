import subprocess
import sys

from diffaug.compute.progress import progress_bar, tracked


def test_items_come_through_as_they_are():
    assert list(tracked("abc", 3, "letters")) == list(tracked("abc", 3, "")) == ["a", "b", "c"]


def test_nothing_is_shown_where_stderr_is_no_terminal(capfd):
    with progress_bar("work", 3) as show:
        show(2)
        show(3, "more work")
    assert list(tracked(range(2), 2, "numbers")) == [0, 1]
    assert capfd.readouterr() == ("", "")


def test_a_bar_imports_no_torch():
    code = "import sys, diffaug.compute.progress, diffaug.compute.pool; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
