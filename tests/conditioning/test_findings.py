import re

import pytest
import yaml

from diffaug.conditioning.findings import DOMAINS, FOLDER, library_of, read_library
from diffaug.conditioning.grammar import draw_prompts, words_in
from diffaug.errors import FindingsError, nearest

OWN = {
    "domain": "dermatoscopy",
    "groups": {"form": "head", "border": "trait"},
    "references": {"me-2020": {"authors": "Me", "year": 2020, "title": "Spots", "doi": "10.1000/spots"}},
    "findings": {
        "spot": {"group": "form", "term": "dark spot", "description": "A spot.", "references": ["me-2020"]},
        "halo": {"group": "border", "term": "a halo", "description": "A ring.", "references": ["me-2020"]},
    },
}


def changed(path, value, start=OWN):
    """Return a copy of OWN with the value at a dotted path replaced."""
    head, _, rest = path.partition(".")
    return {**start, head: changed(rest, value, start[head]) if rest else value}


def written(folder, values):
    path = folder / "findings.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def refused(folder, values):
    with pytest.raises(FindingsError) as error:
        read_library(written(folder, values))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    return str(error.value)


def test_there_are_seven_domains_and_an_old_name():
    assert DOMAINS == ("dermoscopy", "endoscopy", "fundus", "generic", "microscopy", "ultrasound", "x-ray")
    assert all(library_of(domain).domain == domain for domain in DOMAINS)
    assert library_of("colonoscopy") == library_of("endoscopy")


@pytest.mark.parametrize("domain", [name for name in DOMAINS if library_of(name).grey])
def test_of_grey_images_no_word_of_colour_is_said(domain):
    words = frozenset().union(*(words_in(draft.text()) for draft in draw_prompts(library_of(domain), 400, 0)))
    assert not words & {"pale", "reddish", "red", "pink", "brown", "mucosa"} and words & {"bright", "dark"}


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_finding_that_prompts_say_can_be_looked_up(domain):
    library = library_of(domain)
    for group, role in library.groups.items():
        for name, finding in library.spoken(group).items():
            assert not finding.unverified and not finding.silent
            assert role == "setting" or library.cited([name]), name
    for reference in library.references.values():
        assert re.search(r", (doi:10\.\d+/\S+|pmid:\d+)$", reference.text())


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_reference_is_cited(domain):
    library = library_of(domain)
    assert {key for one in library.findings.values() for key in one.references} == set(library.references)


def test_unverified_and_silent_findings_stay_out_of_prompts():
    library = library_of("colonoscopy")
    assert library.findings["juvenile"].unverified and library.findings["diminutive"].silent
    said = {name for group in library.groups for name in library.spoken(group)}
    assert not said & {"juvenile", "look-traditional-serrated", "diminutive", "small-size", "large-size"}


def test_colonoscopy_covers_paris_nice_kudo_and_spreading_types():
    names = set(library_of("colonoscopy").findings)
    assert names >= {"pedunculated", "sessile", "slightly-elevated", "completely-flat", "slightly-depressed"}
    assert names >= {"lst-granular", "lst-nodular", "lst-flat", "lst-pseudodepressed"}
    assert names >= {f"nice-{i}" for i in (1, 2, 3)} | {f"kudo-{i}" for i in ("1", "2", "3s", "3l", "4", "5")}


def test_no_term_speaks_of_millimetres_unless_it_is_silent():
    for domain in DOMAINS:
        for name, finding in library_of(domain).findings.items():
            spoken = " ".join((finding.term, *finding.synonyms))
            assert finding.silent or not re.search(r"\bmm\b|\bcm\b|millimet", spoken), name


def test_the_libraries_lie_in_the_package():
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"{domain}.yaml" for domain in DOMAINS]


def test_a_users_own_findings_are_read(tmp_path):
    library = library_of(findings=written(tmp_path, OWN))
    assert library.cited(["spot", "halo"]) == ("Me 2020, doi:10.1000/spots",)
    assert library_of("dermatoscopy", tmp_path / "findings.yaml") == library
    with pytest.raises(FindingsError, match="is of 'dermatoscopy', not 'fundus'"):
        library_of("fundus", tmp_path / "findings.yaml")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("findings.spot.attributes", {"colur": ["dark"]}, "'colur' is not; nearest: colour"),
        ("findings.spot.attributes", {"colour": ["redish"]}, "'redish' is not; nearest: reddish"),
        ("findings.spot.excludes", ["hallo"], "'hallo' is not; nearest: halo"),
        ("findings.spot.group", "from", "'from' is not; nearest: form"),
        ("findings.spot.references", ["me-2021"], "'me-2021' is not; nearest: me-2020"),
        ("findings.spot.references", [], "spot has none"),
        ("findings.spot.unverified", True, "prompts need a verified finding of the group form"),
        ("findings.spot.sinonyms", ["mole"], "findings.spot.sinonyms is not; nearest: synonyms"),
        ("findings.spot.term", "dark | spot", "findings.spot.term"),
        ("findings.spot.term", "dark\nspot", "findings.spot.term"),
        ("findings.spot.prevalence", [{"share": 3, "of": "eyes", "reference": "me-2020"}], "share"),
        ("findings.spot.prevalence", [{"share": 0.3, "of": "eyes", "reference": "you"}], "'you' is not"),
        ("references.me-2020.doi", "doi:10/1", "references.me-2020.doi"),
        ("references.me-2020.doi", None, "needs a doi or a pmid"),
        ("groups", {"form": "trait", "border": "trait"}, "one group must be the head: none is"),
        ("groups", {"form": "head", "border": "head"}, "one group must be the head: form, border is"),
        ("groups", {"form": "head", "border": "tail"}, "groups.border"),
        ("findings", [], "findings"),
    ],
)
def test_a_broken_rule_is_one_line_with_the_nearest_names(path, value, told, tmp_path):
    message = refused(tmp_path, changed(path, value))
    assert told in message and str(tmp_path) in message


@pytest.mark.parametrize("text", ["", "- 1", "a: [1", "domain: x\x00", "findings: 3"])
def test_what_is_no_library_is_one_line(text, tmp_path):
    refused(tmp_path, text)


def test_a_missing_file_and_an_unknown_domain_are_one_line(tmp_path):
    with pytest.raises(FindingsError, match="No such file"):
        library_of(findings=tmp_path / "nowhere.yaml")
    with pytest.raises(FindingsError, match="'colonoscpy' is not; nearest: colonoscopy"):
        library_of("colonoscpy")


def test_far_names_list_what_is_known():
    assert nearest("zzz", ["alpha", "beta"]) == "known: alpha, beta"
