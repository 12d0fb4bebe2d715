"""Findings: what the literature calls a kind of lesion, what that implies, and where it is published.

A library is one YAML file of `findings/`, or a user's own. Knows words and references, no pixels: a finding is what may
be asked of a painter, and is never claimed of a real case.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffaug.artifacts import PathLike
from diffaug.conditioning.prompts import ASPECTS, words_allowed
from diffaug.errors import DataError, FindingsError, nearest
from diffaug.reading import read_yaml

FOLDER = Path(__file__).parent / "findings"
DOMAINS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
GENERIC = "generic"  # the words of measured attributes alone
ALIASES = {"colonoscopy": "endoscopy", "xray": "x-ray", "microscope": "microscopy"}  # other names of domains

Role = Literal["head", "trait", "setting"]
Term = Annotated[str, Field(max_length=60, pattern=r"^[^\s|]+( [^\s|]+)*$")]  # one line of words


class Entry(BaseModel):
    """A frozen part of a library that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(Entry):
    """A publication that can be looked up."""

    authors: Annotated[str, Field(min_length=1)]
    year: Annotated[int, Field(ge=1800, le=2100)]
    title: Annotated[str, Field(min_length=1)]
    doi: Annotated[str | None, Field(pattern=r"^10\.\d{4,9}/\S+$")] = None
    pmid: Annotated[str | None, Field(pattern=r"^\d{1,8}$")] = None

    @model_validator(mode="after")
    def _be_findable(self) -> "Reference":
        if self.doi is None and self.pmid is None:
            raise ValueError(f"a reference needs a doi or a pmid: {self.authors} {self.year} has none; add one")
        return self

    def text(self) -> str:
        """Return the reference on one line."""
        return f"{self.authors} {self.year}, {f'doi:{self.doi}' if self.doi else f'pmid:{self.pmid}'}"


class Prevalence(Entry):
    """How often a finding was seen: `share` of `of`, as a reference reports it."""

    share: Annotated[float, Field(ge=0.0, le=1.0)]
    of: Annotated[str, Field(min_length=1)]
    reference: str


class Finding(Entry):
    """One finding.

    Attributes:
        group: One of the library's groups; a prompt holds one finding of a group at most.
        term: The standard term, as a prompt says it.
        synonyms: Other ways to say it.
        description: What it looks like, in our own words.
        attributes: Aspect to the words that agree with it. An aspect that is missing may have any word; one without
            words is not mentioned beside this finding.
        excludes: Findings that contradict it, in either direction.
        prevalence: As published.
        references: Keys of the library's references.
        unverified: Whether it was not checked against a publication; then prompts leave it out.
        silent: Why prompts leave it out for another reason, such as a size in millimetres; empty if they do not.
    """

    group: str
    term: Term
    synonyms: tuple[Term, ...] = ()
    description: Annotated[str, Field(min_length=1)]
    attributes: dict[str, tuple[str, ...]] = {}
    excludes: tuple[str, ...] = ()
    prevalence: tuple[Prevalence, ...] = ()
    references: tuple[str, ...] = ()
    unverified: bool = False
    silent: str = ""

    @property
    def spoken(self) -> bool:
        """Whether prompts may have it."""
        return not self.unverified and not self.silent


class Library(Entry):
    """The findings of one domain.

    Attributes:
        domain: Its name.
        grey: Whether its images are grey, so that prompts say no word of colour.
        groups: Group to role, in the order of a prompt: one `head` (what is described), then any number of `trait`s
            (what it comes with) and `setting`s (where and how it is seen).
        references: Key to publication.
        findings: Name to finding.
    """

    domain: Term
    grey: bool = False
    groups: dict[str, Role]
    references: dict[str, Reference] = {}
    findings: dict[str, Finding]

    @model_validator(mode="after")
    def _hold_together(self) -> "Library":
        heads = [group for group, role in self.groups.items() if role == "head"]
        if len(heads) != 1:
            raise ValueError(f"one group must be the head: {', '.join(heads) or 'none'} is; mend groups")
        for name, finding in self.findings.items():
            self._check(name, finding)
        if not self.spoken(heads[0]):
            raise ValueError(f"prompts need a verified finding of the group {heads[0]}: there is none; add one")
        return self

    def _check(self, name: str, finding: Finding) -> None:
        _expect(f"the group of {name}", [finding.group], self.groups)
        _expect(f"an attribute of {name}", finding.attributes, ASPECTS)
        for aspect, words in finding.attributes.items():
            _expect(f"{aspect} of {name}", words, words_allowed(self.grey)[aspect])
        _expect(f"what {name} excludes", finding.excludes, self.findings)
        _expect(f"a reference of {name}", finding.references, self.references)
        _expect(f"a reference of {name}", [prevalence.reference for prevalence in finding.prevalence], self.references)
        if not finding.references and not finding.unverified and self.groups[finding.group] != "setting":
            raise ValueError(f"a finding needs a reference: {name} has none; add one, or set unverified: true")

    def spoken(self, group: str) -> dict[str, Finding]:
        """Return the findings of a group that prompts may say, by name."""
        return {name: finding for name, finding in self.findings.items() if finding.group == group and finding.spoken}

    def cited(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the references of some findings, each once, as text."""
        keys = dict.fromkeys(key for name in names for key in self.findings[name].references)
        return tuple(self.references[key].text() for key in keys)


def library_of(domain: str = GENERIC, findings: PathLike | None = None) -> Library:
    """Return the findings of a domain, or of a file.

    Args:
        domain: endoscopy, fundus, ultrasound, microscopy, dermoscopy, x-ray or generic; with a file of findings, its
            domain, or the default.
        findings: A YAML file in the form of the findings of the package.

    Raises:
        FindingsError: The domain is unknown or not that of the file, or the file breaks a rule.

    Example:
        >>> library = diffaug.library_of("endoscopy")
        >>> library.domain, len(library.findings)
        ('endoscopy', 49)
    """
    domain = canonical(domain)
    if findings is None:
        if domain not in DOMAINS:
            _require("a domain", domain, (*DOMAINS, *ALIASES))
        return read_library(FOLDER / f"{domain}.yaml")
    library = read_library(Path(findings))
    if domain not in (GENERIC, canonical(library.domain)):
        raise FindingsError(f"a file has one domain: {findings} is of {library.domain!r}, not {domain!r}; leave it out")
    return library


def canonical(domain: str) -> str:
    """Return the name of a domain that may have been called by an older or shorter one."""
    return ALIASES.get(domain, domain)


def read_library(path: Path) -> Library:
    """Read a YAML file of findings.

    Raises:
        FindingsError: The file is missing or malformed, or breaks a rule; one line with the nearest valid names.
    """
    try:
        return Library.model_validate(read_yaml(path))
    except DataError as error:
        raise FindingsError(f"a findings file must be readable: {error}") from None
    except ValidationError as error:
        raise FindingsError(f"{path}: {_explain(error)}") from None


def _require(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise FindingsError(f"{what} must be a known name: {name!r} is not; {nearest(name, known)}")


def _expect(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown names by a ValueError, as pydantic expects."""
    for name in names:
        if name not in known:
            raise ValueError(f"{what} must be a known name: {name!r} is not; {nearest(name, known)}")


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "value_error":  # ours, which name the value
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        fields = {name for part in (Library, Finding, Reference, Prevalence) for name in part.model_fields}
        return f"only known fields are allowed: {where} is not; {nearest(str(first['loc'][-1]), sorted(fields))}"
    return f"{where}: {first['msg']}; got {str(first['input'])[:60]!r}"
