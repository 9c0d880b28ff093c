"""Whatever stands outside of the marks stays as it is; marks that don't pair up change nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_pl.reporting.experiments.regions import MARK, BrokenMarksError, marked, regions_of, renewed, with_new

WRITTEN = st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))).filter(
    lambda text: "<!-- tracker:" not in text
)
"""By a person: any text, any bytes."""
PIECES = st.lists(
    st.one_of(
        WRITTEN, st.sampled_from(["<!-- tracker:begin a -->", "<!-- tracker:end a -->", "<!-- tracker:end b -->"])
    ),
    max_size=8,
)


@given(st.lists(WRITTEN, min_size=2, max_size=5), st.lists(st.text(), min_size=10, max_size=10))
def test_what_people_wrote_stays(written: list[str], contents: list[str]) -> None:
    before = written[0] + "".join(
        f"\n{marked(f'part{place}', contents[place])}\n{text}" for place, text in enumerate(written[1:])
    )
    new = {f"part{place}": contents[5 + place] for place in range(len(written) - 1)}
    after = renewed(before, new)
    regions = regions_of(after)
    assert list(regions) == list(new)
    outside, at = [], 0
    for region in regions.values():
        outside.append(after[at : region.start].removesuffix("\n"))
        at = region.end + 1
    assert [*outside, after[at:]] == written
    assert renewed(after, new) == after and not any(region.is_edited for region in regions.values())


@given(PIECES)
def test_marks_that_are_broken_are_named_and_else_the_rest_stays(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    try:
        after = renewed(text, {"a": "new"})
    except BrokenMarksError as error:
        assert "line " in str(error)
        return
    marks = list(MARK.finditer(text))
    if not marks:
        assert after == text
        return
    begin, end = marks
    assert after == text[: begin.start()] + marked("a", "new") + text[end.end() :]


def test_a_region_in_the_middle_of_a_line_is_none() -> None:
    assert regions_of("see `<!-- tracker:begin a -->` and\n<!-- tracker:end a --> there\n") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\n<!-- tracker:begin a -->\n", "line 2 begins 'a', which has no end"),
        ("<!-- tracker:end a -->\n", "line 1 ends 'a' without a beginning"),
        ("<!-- tracker:begin a -->\n<!-- tracker:begin b -->\n", "line 2 begins 'b' before 'a' has ended"),
        ("<!-- tracker:begin a -->\n<!-- tracker:end b -->\n", "line 2 ends 'b' in 'a'"),
        (f"{marked('a', 'x')}\n{marked('a', 'x')}\n", "line 4 begins 'a' a second time"),
    ],
)
def test_where_the_marks_are_broken(text: str, said: str) -> None:
    with pytest.raises(BrokenMarksError, match=said):
        regions_of(text)


def test_line_ends_of_another_system_are_no_edit() -> None:
    region = marked("a", "one\ntwo")
    text = f"mine\n{region}\nmine".replace("\n", "\r\n")
    assert not regions_of(text)["a"].is_edited
    assert renewed(text, {"a": "one\ntwo"}) == text
    assert renewed(text, {"a": "three"}) == f"mine\r\n{marked('a', 'three')}\nmine"


def test_an_edit_is_seen() -> None:
    assert regions_of(marked("a", "one").replace("one", "won"))["a"].is_edited


def test_new_parts_stand_above_their_line_or_at_the_end() -> None:
    assert with_new("a\n\n<!-- tracker:new -->\nmine\n", "b\n") == "a\n\nb\n\n<!-- tracker:new -->\nmine\n"
    assert with_new("a", "b\n") == "a\n\nb\n" and with_new("", "b\n") == "b\n" and with_new("a\n", "b\n") == "a\n\nb\n"


def test_content_is_no_mark() -> None:
    text = marked("a", "<!-- tracker:end a -->\n<!-- tracker:new -->")
    assert list(regions_of(text)) == ["a"] and with_new(text, "b\n").endswith("b\n")
