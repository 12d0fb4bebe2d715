"""The command that examines a synthetic set: audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from diffaug.cli.base import Json, OutPath, SyntheticPath, print_result
from diffaug.cli.texts import audit_text


@dataclass
class Audit:
    """Examine a synthetic set: is it whole, like real images, free of copies, and useful?

    OUT gets audit.html, a page that needs no other file, audit.json, and copies.json, which `select` and `export` read.

    Example: diffaug audit synthetic/kvasir-100 audits/kvasir-100 --with data/kvasir-100
    """

    synthetic: SyntheticPath  # Synthetic set, or a set that `diffaug select` made.
    out: OutPath  # Folder to make.
    # Compare with the real lesions of this data set, which the set was generated from. Without it, only the files of
    # the set are examined.
    with_: Annotated[Path | None, arg(name="with", metavar="DATA")] = None
    study: Path | None = None  # Show the verdict of this finished study of the set.
    json: Json = False

    def run(self) -> None:
        """Examine, and say what was found."""
        from diffaug.audit.audit import audit_set
        from diffaug.audit.page import checks_text, lead
        from diffaug.data.copies import PAGE

        found = audit_set(self.synthetic, self.out, self.with_, self.study, progress="auditing")
        lines = (*checks_text(found), *lead(found))
        pictures = len({each.picture for each in found.privacy.copies}) if found.privacy else 0
        places = (self.synthetic, self.out, PAGE, self.with_)
        print_result(found.as_dict(), lambda: audit_text(lines, pictures, *places), self.json)
