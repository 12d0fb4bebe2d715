"""Pages from templates: one HTML file that holds everything it shows and needs no network."""

from collections.abc import Mapping
from typing import Any

from diffaug.report import wording
from diffaug.study.arms import parse_arm


def render(template: str, page: Mapping[str, Any]) -> str:
    """Return the text of a page.

    Args:
        template: Name of a file beside this one.
        page: Everything that the template names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("diffaug.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["without_ratio"] = lambda arm: parse_arm(arm).without_ratio
    environment.filters |= {
        name: getattr(wording, name)
        for name in ("fraction", "points", "percent", "pixels", "signed_percent", "is_sure", "case_counts")
    }
    return environment.get_template(template).render(page)
