"""Hooks of mkdocs: what pages of docs/ link to elsewhere in the repository comes along, and nothing from elsewhere.

On a code host `../CHANGELOG.md` is a link; in the site that file lies outside of docs/. It is copied to repository/,
and the links to it point there. Links to files that do not exist stay as they are, so that a strict build names them.
A notebook of docs/ becomes a page, whose code is that of its cells.
Pages load nothing from another server: of the script that the plugin `offline` takes from one there is our own.
"""

import json
import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ELSEWHERE = re.compile(r'<script src="https?://[^>]*></script>')
DECISION = re.compile(r"^(\d+)\. ", re.MULTILINE)
OPTION = re.compile(r"<code>(?=--[\w.-]{1,40}</code>)")
LINK = re.compile(r"(?<=\]\()(?:\.\./)+[\w./-]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and the linked files of the repository, to those of the site."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        place = f"{file.src_uri.removesuffix('.ipynb')}_notebook.md"
        files.append(File.generated(config, place, content=_page_of(file.content_string, file.name)))
    for file in list(files.documentation_pages()):
        for target in LINK.findall(file.content_string):
            path = _in_repository(file.src_uri, target)
            place = f"repository/{path}"
            if path and place not in files.src_uris and (_root(config) / path).is_file():
                files.append(File.generated(config, place, abs_src_path=str(_root(config) / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files of the repository to their copies, and let each decision begin a paragraph."""
    here = page.file.src_uri
    if here == "decisions.md":
        markdown = DECISION.sub(r"\n\g<0>", markdown)

    def moved(match: re.Match[str]) -> str:
        path = _in_repository(here, match[0])
        place = f"repository/{path}"
        return relpath(place, start=normpath(f"{here}/..")) if place in files.src_uris else match[0]

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the name of an option on one line, and number the decisions as docs/decisions.md does.

    A line may otherwise end after one of the hyphens, and Markdown counts on where a number is left out.
    """
    html = OPTION.sub('<code class="option">', html)
    numbers = iter(DECISION.findall(page.markdown or ""))
    return (
        html if page.file.src_uri != "decisions.md" else re.sub("<li>", lambda _: f'<li value="{next(numbers)}">', html)
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load the script of the search from the site, not from another server."""
    return ELSEWHERE.sub(
        f'<script src="{relpath("search_from_files.js", normpath(f"{page.url}/.."))}"></script>', output
    )


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same for what is no page, such as 404.html."""
    return ELSEWHERE.sub('<script src="search_from_files.js"></script>', output_content)


def _page_of(notebook: str, name: str) -> str:
    """Return the cells of a notebook as Markdown, with a link to it."""
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(notebook)["cells"]]
    parts = [f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts]
    return "\n\n".join([*parts[:1], f"[Download this notebook]({name}.ipynb)", *parts[1:]]) + "\n"


def _root(config: MkDocsConfig) -> Path:
    return Path(config.docs_dir).parent


def _in_repository(page: str, target: str) -> str:
    """Return the path of a link's target in the repository; "" if it is a page of docs/."""
    path = normpath(f"docs/{page}/../{target}")
    return "" if path.startswith(("docs/", "..")) else path
