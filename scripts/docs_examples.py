"""An extension of griffe, which reads docstrings for the site: shows the examples of docstrings as code."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Calls the section `Example:` by the name under which griffe takes doctests for code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of a function, class or attribute."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
