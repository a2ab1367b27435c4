"""Whatever strangers write, a card stays the card: same blocks, same links, same header; their text is text."""

import json
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from card_folders import (
    edit_json,
    facts_of,
    fences,
    headings,
    inline,
    load_yaml,
    run_folder,
    save_trial,
    tokens,
    trial_of,
    yaml_header,
)
from hostile_strings import HOSTILE
from markdown_it import MarkdownIt
from markdown_it.token import Token
from workshop import some_rows

from curate.errors import UsageError
from curate.hub_cards import render_card
from curate.hub_cards.header import FIELDS
from curate.hub_cards.inert import Inert, code, fence, header, prose, recipe_yaml, shown, table
from curate.recipes.loading import read_yaml

NAMES = [f"{place}-{text[:12]!r}" for place, text in enumerate(HOSTILE)]
hostile = pytest.mark.parametrize("text", HOSTILE, ids=NAMES)
BLOCKS = {
    "heading_open", "heading_close", "paragraph_open", "paragraph_close", "inline", "fence", "bullet_list_open", "bullet_list_close",
    "list_item_open", "list_item_close", "blockquote_open", "blockquote_close", "table_open", "table_close", "thead_open",
    "thead_close", "tbody_open", "tbody_close", "tr_open", "tr_close", "th_open", "th_close", "td_open", "td_close",
}  # fmt: skip
INLINE = {"text", "code_inline", "softbreak", "strong_open", "strong_close", "em_open", "em_close", "link_open", "link_close"}
LINK = re.compile(r"https://(?:huggingface\.co/(?:datasets/)?[\w.-]+/[\w.-]+(?:/tree/[0-9a-f]{40})?|arxiv\.org/abs/[\d.]+)")


def storable(text: str) -> str:
    """As Parquet can hold it: lone surrogates are replaced."""
    return text.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rejected, unscored and loud rows, so that every text has its place on the card."""
    rows = [{**row, "value": None} if place % 5 == 0 else row for place, row in enumerate(some_rows(20))]
    return run_folder(tmp_path_factory.mktemp("hostile"), rows=rows)


def spoilt(plain: Path, folder: Path, text: str) -> tuple[Path, dict[str, Any]]:
    """The run and its facts with `text` in every text of others. Of two sources and two reasons one stays."""
    out = Path(shutil.copytree(plain, folder / "out"))
    decision = json.loads((out / "selection" / "selection.json").read_text())
    recipe, report = decision["recipe"], decision["report"]
    recipe |= dict.fromkeys(("name", "summary", "source", "evidence", "avoid"), text)
    recipe["steps"] = [
        {"drop": {"field": text, "is": text}},
        {"keep": {"field": "given.value", "highest": text, "within": [text]}},
        {text: {"field": text}},
    ]
    recipe["filters"] = {text: {text: [text]}}
    for step in report["steps"]:
        step["step"] = text
        step["groups"] = {text: 7}
        step["unscored"] = 3
        step["portions"] = [{"source": text, "share": 0.5, "wanted": 9, "available": 8, "got": 7}]
    report["sources"][0]["source"] = storable(text)  # as the ledger has it
    report["warnings"] = [f"`{text}`: {text}"]
    report["length_unit"] = f"x.{text}"
    report["calibration"] = {text: {"auroc": 0.9, "found_at_1": 0.5}}
    edit_json(out / "selection" / "selection.json", {"recipe": recipe, "report": report})
    lock = json.loads((out / "lock.json").read_text())
    entry = lock["annotations"]["given"]
    entry["fingerprint"]["model"] = {"weights": text, "tokenizer": text}
    entry["fingerprint"] |= {"chat_template": text, "dtype": text, "normalise": [text]}
    lock["annotations"][text] = {"folder": "none", "fingerprint": {"model": {"repository": text, "revision": text}}}
    lock["packages"] = {text: text}
    lock["input"] = {"files": [{"name": text, "xxh3_128": text}]}
    lock["rows"]["identity"] = text
    edit_json(out / "lock.json", lock)
    edit_json(out / "annotations" / entry["folder"] / "plan.json", {"parameters": {"model": text}})
    manifest = json.loads((out / "rows" / "MANIFEST.json").read_text())
    edit_json(out / "rows" / "MANIFEST.json", {"refused_reasons": {text: 3}, "input": manifest["input"]})
    _spoil_rows(out, storable(text))
    save_trial(out, trial_of(out, text))
    facts = facts_of(
        out,
        recipe=recipe,
        curate=text,
        recipe_hash=text,
        kept_hash=text,
        columns={text: "given.value", "x": text},
        left_out=[text],
        source={"kind": "hub", "name": text, "revision": text, "license": text, "language": [text], "is_gated": True},
    )
    return out, facts


def _spoil_rows(out: Path, text: str) -> None:
    """The run's Parquet files with `text` for names, reasons and messages."""
    path = out / "selection" / "ledger.parquet"
    rows = pq.read_table(path)
    records = rows.to_pylist()
    for record in records:
        record["source"] = text if record["source"] == "human" else record["source"]
        record["id"] = text
        if record["given"]["unscored"]:
            record["given"]["unscored"] = text
    pq.write_table(pa.Table.from_pylist(records, schema=rows.schema), path, write_page_checksum=True)
    for path in (out / "rows").glob("part-*.parquet"):
        rows = pq.read_table(path)
        records = rows.to_pylist()
        for record in records:
            record |= {"id": text, "source": text, "messages": [{"role": "user", "content": text}] * 2}
            record["messages"][-1] = {"role": "assistant", "content": text}
        pq.write_table(pa.Table.from_pylist(records, schema=rows.schema), path, write_page_checksum=True)
    for path in (out / "selection" / "kept").glob("part-*.parquet"):
        rows = pq.read_table(path)
        pq.write_table(rows.append_column(text, pa.nulls(len(rows), pa.int64())), path)


def rendered(plain: Path, folder: Path, text: str) -> str:
    out, facts = spoilt(plain, folder, text)
    return render_card(out, facts, repo="me/set", license=text or None, with_examples=True)


def every_token(found: list[Token]) -> Iterator[Token]:
    yield from found
    yield from inline(found)


@pytest.fixture(scope="module")
def benign(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return rendered(plain, tmp_path_factory.mktemp("benign"), "benign")


def shape(card: str) -> list[tuple[str, str]]:
    """Every block and, for headings and code, of which kind."""
    return [(token.type, token.tag + token.info) for token in tokens(card)]


@hostile
def test_a_card_of_hostile_text_is_inert(plain: Path, benign: str, tmp_path: Path, text: str) -> None:
    card = rendered(plain, tmp_path, text)
    found = tokens(card)
    # Nothing but the template's own blocks: no raw HTML, no picture, no heading, no table row or column, no list item of theirs.
    assert {token.type for token in found} <= BLOCKS
    assert {token.type for token in inline(found)} <= INLINE
    assert headings(found) == headings(tokens(benign))
    if text.strip():
        assert [entry for entry in shape(card) if entry not in _LISTS] == [
            entry for entry in shape(benign) if entry not in _LISTS
        ]
    links = [str(token.attrs["href"]) for token in inline(found) if token.type == "link_open"]
    assert all(LINK.fullmatch(link) for link in links)
    # Nothing acts on a terminal or turns text around.
    assert not [c for c in card if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    card.encode("utf-8")
    assert len(card) < 80_000
    _check_html(card)
    _check_header(card, benign)


# One list item per warning or reason: a blank name leaves some of them out.
_LISTS = [(f"{name}_{side}", tag) for name, tag in (("bullet_list", "ul"), ("list_item", "li")) for side in ("open", "close")]


def _check_html(card: str) -> None:
    """As a page it holds the template's elements only."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    html = markdown.render(card.partition("\n---\n")[2])
    allowed = "h1|h2|h3|p|a|code|pre|em|strong|blockquote|ul|li|table|thead|tbody|tr|th|td"
    assert not re.findall(rf"<(?!/?(?:{allowed})\b)[^>]{{0,80}}", html)
    attributes = re.findall(r"<\w+ ([^>]*)>", html)
    assert all(
        re.fullmatch(r'class="language-\w+"|style="text-align:(?:left|right)"|href="https://[^"]+"', one) for one in attributes
    )


def _check_header(card: str, benign: str) -> None:
    """The header differs from that of harmless text in quoted values only."""
    lines, plain_lines = yaml_header(card).splitlines(), yaml_header(benign).splitlines()
    # `yes` could be a language's code.
    kept = [line for line in lines if not line.startswith(("pretty_name: ", "license", "language:", '  - "yes"'))]
    assert kept == [line for line in plain_lines if not line.startswith(("pretty_name: ", "license"))]
    found = load_yaml("\n".join(lines))
    assert FIELDS.issuperset(found)
    assert isinstance(found["pretty_name"], str)
    assert all(isinstance(value, str) for key, value in found.items() if key.startswith("license"))


@hostile
def test_a_split_or_repository_named_by_a_stranger_is_refused_or_harmless(plain: Path, text: str) -> None:
    facts = facts_of(plain)
    with pytest.raises(UsageError):
        render_card(plain, facts, repo=text)
    try:
        card = render_card(plain, {**facts, "split": text})
    except UsageError:
        return
    assert re.fullmatch(r"[\w.]+", text)
    assert load_yaml(yaml_header(card))["configs"][0]["data_files"][0] == {"split": text, "path": f"data/{text}-*.parquet"}


@hostile
def test_a_title_that_no_repository_gives_stays_one_quoted_line(plain: Path, text: str) -> None:
    recipe = {**facts_of(plain)["recipe"], "name": text}
    card = render_card(plain, facts_of(plain, recipe=recipe))
    assert yaml_header(card).count("\n") == yaml_header(render_card(plain, facts_of(plain))).count("\n")
    assert load_yaml(yaml_header(card))["pretty_name"].startswith("Rows chosen by")


def test_templates_in_data_appear_literally(plain: Path, tmp_path: Path) -> None:
    card = rendered(plain, tmp_path, "{{ 7 * 7 }}{% for x in range(3) %}!{% endfor %}")
    assert "{{ 7 * 7 }}{% for x in range(3) %}!{% endfor %}" in card
    assert "49" not in re.sub(r"\d*49\d+|\d+49\d*", "", card)


@hostile
@pytest.mark.parametrize(
    "make",
    [
        lambda text: code(text),
        lambda text: prose(text),
        lambda text: Inert(f"before {prose(text)} after {code(text)} end"),
        lambda text: fence(text),
        lambda text: Inert(f"> {prose(text)}\n>\n> **{prose(text)}**: {prose(text)}"),
        lambda text: Inert(f"- {prose(text)}\n- {code(text)}"),
        lambda text: Inert(f"# {code(text)}"),
        lambda text: table([code(text), "x"], [[prose(text), code(text)], [code(text), prose(text)]]),
    ],
    ids=["code", "prose", "mixed", "fence", "quote", "list", "heading", "table"],
)
def test_each_context_holds_its_text(text: str, make: Callable[[str], Inert]) -> None:
    found = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(make(text) + "\n\nend\n")
    benign = MarkdownIt("commonmark").enable("table").parse(make("benign") + "\n\nend\n")
    assert [token.type for token in found] == [token.type for token in benign]
    assert {token.type for token in inline(found)} <= {"text", "code_inline", "softbreak", "strong_open", "strong_close"}
    # Nothing that a renderer might make more of stands outside of code.
    outside = " ".join(token.content for token in inline(found) if token.type == "text")
    assert not re.search(r"://|www\.|@|\$|#|[<>&{}\\^~*_\[\]|]|==|:\w+:", outside)


@hostile
def test_a_recipes_texts_are_read_back_as_they_were(text: str, tmp_path: Path) -> None:
    if len(text) > 1_000 or text != storable(text):
        pytest.skip("is cut, or cannot stand in a file")
    key = text[:100]  # YAML wants keys on one line, of at most 1,024 characters
    data = {"name": "x", "summary": text, key: {"y": [text, {key: text}]}, "steps": [{"drop": {"is": text, "field": text}}]}
    fenced = MarkdownIt("commonmark").parse(recipe_yaml(data))
    assert [token.type for token in fenced] == ["fence"]
    assert not re.search(r"[<`]", fenced[0].content)
    (tmp_path / "r.yaml").write_text(fenced[0].content, encoding="utf-8")
    assert read_yaml(tmp_path / "r.yaml", "here") == data
    assert load_yaml(fenced[0].content) == data


@hostile
def test_a_header_reads_back_what_was_shown(text: str) -> None:
    safe = shown(text, most=80)
    found = header({"pretty_name": safe, "tags": [safe, "x"]})
    assert found.startswith("---\n")
    assert found.endswith("\n---")
    assert load_yaml(found.removeprefix("---\n").removesuffix("---")) == {"pretty_name": safe, "tags": [safe, "x"]}


def test_text_that_was_not_shown_cannot_enter_a_header() -> None:
    with pytest.raises(AssertionError):
        header({"pretty_name": "x\n---\nlicense: mit"})


@hostile
def test_shown_text_is_short_and_of_one_line(text: str) -> None:
    safe = shown(text, most=50)
    assert "\n" not in safe
    assert len(safe) <= 50 * 10 + 1
    assert shown(text, most=50) == safe


def test_a_pile_of_marks_is_cut_and_a_word_with_accents_is_not() -> None:
    assert shown("a" + "\u0301" * 40 + "b", most=80) == "a" + "\u0301" * 3 + "b"
    assert shown("Ạ̈ e\u0301", most=80) == "Ạ̈ e\u0301"


def test_two_rows_of_backticks_cannot_close_each_others_spans() -> None:
    line = Inert(f"{code('a`')} and {code('``b')} and {prose('`x')}")
    found = inline(MarkdownIt("commonmark").parse(line))
    assert [token.content for token in found if token.type == "code_inline"] == ["a`", "``b", "`"]


def test_at_least_forty_strings_are_tried() -> None:
    assert len(set(HOSTILE)) >= 40
    assert fences(tokens("---\nx: 1\n---\n" + fence(HOSTILE[0])), "text")
