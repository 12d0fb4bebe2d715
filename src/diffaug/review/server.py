"""The server of the page: what it answers, and how it is started. It listens on the loopback interface alone."""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from diffaug.data.reviews import LONGEST_WHY, Decision, Review, Reviews, Why, in_force
from diffaug.errors import ConfigError, DiffaugError, one_line
from diffaug.names import Inside, fault_of_name, shown
from diffaug.review.blind import ANSWERS, Said, Session, frames_of, table
from diffaug.review.guard import Guard
from diffaug.review.pictures import Cache, frame, thumbnail
from diffaug.review.real import RealLesions
from diffaug.review.rows import DataRows, SetRows, described, is_set, rows_of
from diffaug.runfolder import LOCK, held

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGES = Path(__file__).parent / "page"
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
MOST_ROWS = 5_000  # of one answer
COUNT = 24  # frames of each kind in a blind session
INSTALL = "pip install 'diffaug[review]'"


@dataclass(frozen=True)
class Decided:
    """What the page sends: a decision about a row."""

    row: int
    decision: Decision
    why: Why = ""


@dataclass(frozen=True)
class Answered:
    """What the page of a blind session sends: an answer to a frame."""

    number: int
    answer: Said


def now() -> str:
    """Return the time as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reviewer_of(given: str = "") -> str:
    """Return who reviews: the name that is given, or else that of the login.

    Raises:
        ConfigError: There is no name, or it is none that a record can hold.
    """
    name, where = given, "--reviewer"
    if not name:
        where = "the name of the login"
        with suppress(OSError, KeyError, ImportError):
            name = getuser()
    if fault := fault_of_name(name):
        raise ConfigError(
            f"a reviewer has a plain name: {where} is {shown(name)}, which {fault}; name one: --reviewer ANNA"
        )
    return name


class Desk:
    """What is reviewed: the rows, the decisions about them, and the real lesions beside them.

    Raises:
        DataError: A folder or the record of decisions breaks a rule.
    """

    def __init__(self, folder: Path, real: Path | None, who: str) -> None:
        self.rows: SetRows | DataRows = rows_of(folder)
        self.name, self.who = folder.absolute().name, who
        self.real = RealLesions(real) if real else None
        self.reviews = Reviews(folder) if isinstance(self.rows, SetRows) else None
        self.cache = Cache()
        self._lock = Lock()

    def about(self) -> dict[str, Any]:
        """Return what the page must know first."""
        more = {"name": one_line(self.name), "who": self.who, "real": self.real is not None, "why": LONGEST_WHY}
        return {**described(self.rows), **more, "decides": self.reviews is not None}

    def decide(self, decided: Decided) -> dict[str, Any]:
        """Record a decision, and return it.

        Raises:
            DataError: There is no such row, or the folder is a data set.
        """
        if self.reviews is None or not isinstance(self.rows, SetRows):
            raise ConfigError("decisions are about synthetic sets: this is a data set, which can be looked at")
        row = self.rows.row(decided.row)
        with self._lock:
            why = one_line(decided.why.strip())[:LONGEST_WHY]
            self.reviews.add(Review(row.id, decided.decision, self.who, now(), why, row.image_digest))
            return self.decisions(len(self.reviews.lines) - 1)

    def decisions(self, since: int) -> dict[str, Any]:
        """Return the decisions that hold of rows about which something was decided after the first `since` lines."""
        if self.reviews is None:
            return {"lines": 0, "changed": {}}
        count = len(self.reviews.lines)
        changed = dict.fromkeys(line.id for line in self.reviews.lines[max(0, since) : count])
        holding = {name: self.reviews.holding(name) for name in changed}
        return {"lines": count, "changed": {name: asdict(one) if one else None for name, one in holding.items()}}

    def counts(self) -> tuple[int, int]:
        """Return how many rows are accepted and rejected."""
        holding = [review.decision for review in in_force(self.reviews.lines if self.reviews else []).values()]
        return holding.count("accept"), holding.count("reject")


def new_application() -> "FastAPI":
    """Return an application without answers; an error of this package becomes one line of JSON.

    Raises:
        ConfigError: The extra is not installed.
    """
    try:
        from fastapi import FastAPI
        from fastapi.requests import Request
        from fastapi.responses import JSONResponse
    except ImportError:
        raise ConfigError(
            f"the page needs FastAPI and uvicorn: they are not installed; install the extra: {INSTALL}"
        ) from None

    async def told(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    return FastAPI(docs_url=None, redoc_url=None, openapi_url=None, exception_handlers={DiffaugError: told})


def _add_pages(application: "FastAPI", page: str) -> None:
    """Add a page, and the files that it names."""
    from fastapi.responses import Response

    def add(place: str, path: Path) -> None:
        def file() -> Response:
            return Response(path.read_bytes(), media_type=KINDS[path.suffix])

        application.add_api_route(place, file)

    add("/", PAGES / page)
    for path in PAGES.iterdir():
        if path.suffix != ".html" and path.suffix in KINDS:
            add(f"/{path.name}", path)


def review_application(desk: Desk) -> "FastAPI":
    """Return what answers the page of a review."""
    application = new_application()
    from fastapi.responses import Response

    _add_pages(application, "review.html")
    jpeg, png = "image/jpeg", "image/png"

    @application.get("/about")
    def about() -> dict[str, Any]:
        return desk.about()

    @application.get("/rows")
    def rows(start: int = 0, count: int = MOST_ROWS) -> dict[str, list[Any]]:
        return desk.rows.listed(max(0, start), max(0, start) + min(max(0, count), MOST_ROWS))

    @application.get("/facts/{number}")
    def facts(number: int) -> dict[str, Any]:
        example = desk.real.example(desk.rows, number) if desk.real else ""
        return {"facts": desk.rows.facts(number), "example": example}

    @application.get("/thumbnail/{number}")
    def small(number: int, outline: bool = False) -> Response:
        made = desk.cache.get(("small", number, outline), lambda: thumbnail(desk.rows.case(number), outline))
        return Response(made, media_type=jpeg)

    @application.get("/frame/{number}")
    def whole(number: int, outline: bool = False) -> Response:
        made = desk.cache.get(("whole", number, outline), lambda: frame(desk.rows.case(number), outline))
        return Response(made, media_type=png)

    @application.get("/real")
    def real(id: str, outline: bool = False) -> Response:  # noqa: A002 - the name of the parameter in the address
        if desk.real is None:
            return Response(status_code=404)
        case = desk.real.case(id)
        return Response(desk.cache.get(("real", id, outline), lambda: frame(case, outline)), media_type=png)

    @application.get("/nearest/{number}")
    def nearest(number: int) -> dict[str, Any]:
        return asdict(desk.real.nearest(desk.rows, number)) if desk.real else {}

    @application.get("/decisions")
    def decisions(since: int = 0) -> dict[str, Any]:
        return desk.decisions(since)

    @application.post("/decide")
    def decide(decided: Decided) -> dict[str, Any]:
        return desk.decide(decided)

    return application


def blind_application(session: Session) -> "FastAPI":
    """Return what answers the page of a blind session: nothing that it sends tells what a frame is."""
    application = new_application()
    from fastapi.responses import Response

    _add_pages(application, "blind.html")
    cache, lock = Cache(), Lock()

    @application.get("/about")
    def about() -> dict[str, Any]:
        result = session.result() if session.finished else None
        lines = table(result).splitlines() if result else []
        given = {str(number): answer for number, answer in session.answers.items()}
        return {"who": session.who, "count": len(session.frames), "answers": given, "said": ANSWERS, "result": lines}

    @application.get("/frame/{number}")
    def whole(number: int) -> Response:
        if not 1 <= number <= len(session.frames):
            return Response(status_code=404)
        case = session.frames[number - 1].case
        return Response(cache.get(number, lambda: frame(case, outline=False)), media_type="image/png")

    @application.post("/answer")
    def answer(answered: Answered) -> dict[str, Any]:
        with lock:
            session.say(answered.number, answered.answer, now())
        return about()

    return application


# --- Starting ---------------------------------------------------------------------------------------------------------


def listening(port: int) -> socket.socket:
    """Return a socket of the loopback interface that listens on a port; 0 takes a free one.

    Raises:
        ConfigError: The port is in use, or may not be taken.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", port))
        found.listen(64)
    except (OSError, OverflowError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"a port must be free: --port {port}: {reason}; choose another, or leave --port out"
        ) from None
    return found


@dataclass(frozen=True)
class Running:
    """A server that listens.

    Attributes:
        address: Of the page, with the token of this start.
        serve: Answers until the process is interrupted, or until `stop` is called in another thread.
        stop: Ends it.
    """

    address: str
    serve: Callable[[], None]
    stop: Callable[[], None]


@contextmanager
def running(application: "FastAPI", port: int = 0) -> Iterator[Running]:
    """Listen for the block.

    Args:
        application: What answers.
        port: Of the loopback interface; 0 takes a free one.

    Raises:
        ConfigError: The port is in use.
    """
    import uvicorn

    token = secrets.token_urlsafe(24)
    with listening(port) as found:
        number = found.getsockname()[1]
        guarded = Guard(application, token, number)
        config = uvicorn.Config(
            guarded,
            log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, date_header=False,
            limit_concurrency=256, timeout_keep_alive=15, timeout_graceful_shutdown=2,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def serve() -> None:
            with suppress(KeyboardInterrupt):
                server.run(sockets=[found])

        def stop() -> None:
            server.should_exit = True

        yield Running(f"http://127.0.0.1:{number}/{token}/", serve, stop)


def review(folder: Path, real: Path | None, reviewer: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page of a synthetic set or a data set until the process is interrupted.

    Args:
        folder: The set.
        real: Data set whose lesions are shown beside painted ones; None shows none.
        reviewer: Who decides; empty for the name of the login.
        port: Of the loopback interface; 0 takes a free one.
        say: Is told the address, and at the end what was decided.

    Raises:
        DataError: A folder or a file breaks a rule.
        ConfigError: The extra is not installed, the port or the folder is in use, or the reviewer has no plain name.
    """
    new_application()  # or the extra is missing, which is told before anything is read
    who = reviewer_of(reviewer)
    with _alone(folder):
        desk = Desk(folder, real, who)
        with running(review_application(desk), port) as server:
            say(f"Open {server.address} in a browser on this machine. Ctrl-C ends it.")
            server.serve()
    if desk.reviews is not None:
        accepted, rejected = desk.counts()
        say(f"{accepted} accepted, {rejected} rejected, in {desk.reviews.path}.")


def blind(
    folder: Path, real: Path, reviewer: str, port: int, say: Callable[[str], None], count: int = COUNT, seed: int = 0
) -> None:
    """Serve a blind session until the process is interrupted; see `review`.

    Args:
        folder: Synthetic set.
        real: Data set of the real frames.
        reviewer: Who reads.
        port: Of the loopback interface.
        say: Is told the address, and at the end the scores.
        count: Frames of each kind.
        seed: Of the choice of frames and of their order.

    Raises:
        DataError: A folder or a file breaks a rule, or there are no frames of one kind.
        ConfigError: See `review`; or there is no frame to show.
    """
    new_application()
    who = reviewer_of(reviewer)
    if count < 1:
        raise ConfigError(f"a blind session shows a frame of each kind at least: --count is {count}; use {COUNT}")
    with _alone(folder):
        found = frames_of(real, folder, count, seed)
        session = Session(found, folder, who, seed)
        for notice in found.notices:
            say(notice)
        with running(blind_application(session), port) as server:
            say(f"Open {server.address} in a browser on this machine. Ctrl-C ends it.")
            server.serve()
    if session.finished:
        return say(table(session.result()))
    return say(f"{len(session.answers)} of {len(session.frames)} frames are answered; the same command continues.")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a synthetic set for the block, so that one process appends to its records; nothing else is held."""
    if not is_set(folder):
        yield
        return
    Inside(folder).check(LOCK)  # or a link could lead elsewhere
    with held(folder):
        yield
