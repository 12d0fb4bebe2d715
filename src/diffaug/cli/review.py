"""The command that shows cases to people: review."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from diffaug.cli.base import Seed
from diffaug.errors import ConfigError


@dataclass
class Review:
    """Look at the cases of a synthetic set in the browser, and accept or reject them.

    The page is for this machine alone. Decisions are appended to SET/review.jsonl; `select`, `export` and `study` leave
    rejected cases out. A data set can be looked at in the same way. Needs the extra `review`.

    Example: diffaug review synthetic/kvasir-100 --with data/kvasir-100
    """

    # Synthetic set to review, or a data set whose masks to look at.
    folder: Annotated[Positional[Path], arg(metavar="SET")]
    # Show real lesions of this data set beside each painted one: its example, and the nearest.
    with_: Annotated[Path | None, arg(name="with", metavar="DATA")] = None
    # Show shuffled real and painted frames without outlines, and score which are told apart. Needs --with.
    blind: bool = False
    count: int = 24  # With --blind: number of frames of each kind.
    seed: Seed = 0
    reviewer: str = ""  # Record this name with each decision. The default is the name of the login.
    # Listen on this port of this machine. The default, 0, takes a free one.
    port: int = 0

    def run(self) -> None:
        """Serve the page until Ctrl-C."""
        if self.blind and self.with_ is None:
            raise ConfigError(
                "--blind shows real frames beside painted ones: no data set is given; add it with --with DATA"
            )
        from diffaug.review.server import blind, review

        def say(line: str) -> None:
            print(line, flush=True)

        if self.blind and self.with_ is not None:
            return blind(self.folder, self.with_, self.reviewer, self.port, say, self.count, self.seed)
        return review(self.folder, self.with_, self.reviewer, self.port, say)
