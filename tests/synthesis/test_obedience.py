"""Which findings act, how, and whether painted lesions show what they imply."""

from types import SimpleNamespace

from diffaug.conditioning.findings import library_of
from diffaug.synthesis.obedience import Acted, acted, how, line_of, obedience

LIBRARY = library_of("endoscopy")


def request(*findings, unknown=(), cup_ratio=None):
    return SimpleNamespace(findings=findings, unknown_words=unknown, cup_ratio=cup_ratio, negative=False)


def test_a_finding_acts_by_its_name_or_by_what_it_implies_or_not_at_all():
    flat, cap = LIBRARY.findings["completely-flat"], LIBRARY.findings["mucus-cap"]
    assert how("completely-flat", flat, request("completely-flat")) == "name"
    assert how("completely-flat", flat, request("completely-flat", unknown=(flat.term,))) == "attributes"
    assert how("completely-flat", flat, request("completely-flat", unknown=(flat.synonyms[0],))) == "attributes"
    bare = replace_attributes(cap)
    assert how("mucus-cap", bare, request("mucus-cap", unknown=(cap.term,))) == "none"


def replace_attributes(finding):
    return finding.model_copy(update={"attributes": {"surface": ()}})


def test_a_cup_acts_through_its_ratio():
    cup = library_of("fundus").findings["large-cup"]
    assert how("large-cup", cup, request("large-cup", unknown=(cup.term,), cup_ratio=0.6)) == "attributes"
    assert how("large-cup", cup, request("large-cup", unknown=(cup.term,))) == "none"


def test_obedience_is_the_share_of_implied_attributes_that_are_shown():
    flat = LIBRARY.findings["completely-flat"]  # low-contrast, indistinct, smooth
    one = {"contrast": "low-contrast", "border": "indistinct", "surface": "textured", "shape": "round"}
    assert obedience(flat, [one]) == 0.667
    assert obedience(flat, [one, {**one, "surface": "smooth"}]) == 0.833
    assert obedience(flat, []) is None and obedience(replace_attributes(flat), [one]) is None


def test_the_line_names_what_acted_how_and_its_remedy():
    found = {"completely-flat": Acted(0, 3, 0, 0.5, 0.2), "sessile": Acted(2, 0, 0), "mucus-cap": Acted(0, 0, 1)}
    line = line_of(found, LIBRARY)
    assert "1 acted by name (sessile polyp 2)" in line and "completely flat lesion 3" in line
    assert "1 acted without effect" in line and "column prompt" in line and "\n" not in line
    assert "column prompt" not in line_of({"sessile": Acted(2, 0, 0)}, LIBRARY)
    assert "none acted by name" in line_of({}, LIBRARY)


def test_no_finding_reads_no_picture(tmp_path):
    row = SimpleNamespace(request=request(), id="a", decision="kept", image="none.png")
    assert acted([row], LIBRARY, tmp_path) == {}
