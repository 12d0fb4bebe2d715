"""The documentation site builds without a warning, needs no network and fits on a phone."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import diffaug

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_reference_once() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md"))]
    named = [name for text in texts for name in re.findall(r"^::: diffaug\.(\w+)$", text, re.MULTILINE)]
    assert sorted(named) == sorted(diffaug.__all__)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from docs/ in strict mode: a broken link or anchor, or a page outside of it, is an error."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'diffaug[docs]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(list(DOCS.rglob("*.md")))
    loaded = r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^>]*>'
    styled = r'url\("?(?:https?:)?//[^)]*\)|@import[^;]*'
    for path in [*pages, *site.rglob("*.css")]:
        assert re.findall(f"{loaded}|{styled}", path.read_text(encoding="utf-8")) == [], path.name


@pytest.mark.browser
def test_no_page_is_wider_than_a_phone_and_the_name_of_an_option_stays_on_one_line(site: Path, tmp_path: Path) -> None:
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    frames = "".join(f'<iframe src="{(site / page).as_uri()}" width=400 height=800></iframe>' for page in pages)
    script = (
        "<pre id=told></pre><script>const look = page => [page.documentElement.scrollWidth, "
        "[...page.querySelectorAll('article code')].filter(code => /^--[\\w.-]+$/.test(code.textContent) && "
        "code.getClientRects().length > 1).length].join(','); onload = () => { document.getElementById('told')"
        ".textContent = [...document.querySelectorAll('iframe')].map(frame => look(frame.contentDocument))"
        ".join(' ') + '.' }</script>"
    )
    (tmp_path / "frames.html").write_text(frames + script, encoding="utf-8")
    told = opened(tmp_path / "frames.html", tmp_path / "profile")
    found = re.search(r"<pre id=\"told\">([\d, ]+)\.</pre>", told)
    assert found, told[-500:]
    looks = dict(zip(pages, (tuple(map(int, each.split(","))) for each in found[1].split()), strict=True))
    assert {page: (width, broken) for page, (width, broken) in looks.items() if width > 400 or broken} == {}


@pytest.mark.browser
def test_the_search_finds_pages_without_a_server(site: Path, tmp_path: Path) -> None:
    shown = opened(site / "index.html", tmp_path / "profile", "?q=pseudo-label")
    assert re.search(r"\d+ matching documents", shown)


def opened(page: Path, profile: Path, query: str = "") -> str:
    """Return what a page in headless Chromium holds after it was opened from its file."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    quiet = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    files = f"--allow-file-access-from-files --user-data-dir={profile} --virtual-time-budget=8000 --dump-dom"
    command = [chromium, *quiet.split(), *files.split(), page.as_uri() + query]
    return subprocess.run(
        command, check=True, timeout=180, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout
