"""Filters that compare a row with all others: one pass, made only when a score is missing, and known by what it read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from workshop import record, some_rows, write_rows

from curate import _fs
from curate.annotations import AnnotationStore, annotate, load_annotations
from curate.errors import UsageError
from curate.examples import Example, load_examples
from curate.filters import Scores, register
from curate.filters.corpus import CorpusFilter, corpus_identity
from curate.rows import RowStore, commit_rows

PASSES: list[int] = []


@register("rank_of_length")
class RankOfLength(CorpusFilter):
    """How many completions of the corpus are shorter."""

    outputs: ClassVar = {"shorter": "int64"}

    def learn(self, examples: Iterable[Example]) -> list[int]:
        PASSES.append(1)
        return sorted(len(example.completion) for example in examples)

    def score(self, example: Example) -> Scores:
        return {"shorter": sum(length < len(example.completion) for length in self.state)}

    def findings(self) -> dict[str, Any]:
        return {"longest": self.state[-1]}


@pytest.fixture
def rows(tmp_path: Path) -> RowStore:
    data = write_rows(tmp_path / "d.jsonl", [{**row, "gold": "a"} for row in some_rows(30)])
    with _fs.run_folder(tmp_path / "out"):
        return commit_rows(load_examples(data), tmp_path / "out" / "rows", shard_rows=8)


def test_the_pass_is_made_once_and_only_when_a_score_is_missing(rows: RowStore) -> None:
    out = rows.folder.parent
    PASSES.clear()
    annotate(rows, [RankOfLength()], out)
    assert len(PASSES) == 1
    annotate(rows, [RankOfLength()], out)
    assert len(PASSES) == 1


def test_what_was_found_stands_beside_the_scores(rows: RowStore) -> None:
    annotate(rows, [RankOfLength()], rows.folder.parent)
    (store,) = load_annotations(rows.folder.parent).stores
    assert isinstance(store, AnnotationStore)
    assert store.findings == {"longest": max(len(example.completion) for example in rows)}


def test_unfitted_it_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"'rank_of_length' compares rows with each other: call fit"):
        RankOfLength().score(Example(messages=[{"role": "assistant", "content": "x"}]))


@pytest.mark.parametrize("reads", [("messages",), ("messages", "source", "gold"), ("messages", "extra"), ("tests",)])
def test_a_store_and_a_list_of_its_rows_are_one_corpus(rows: RowStore, reads: tuple[str, ...]) -> None:
    assert corpus_identity(rows, reads) == corpus_identity(list(rows), reads)


def test_another_row_is_another_corpus(tmp_path: Path, rows: RowStore) -> None:
    other = write_rows(tmp_path / "e.jsonl", [*some_rows(29), record("What is 7 + 1?", "It is 9.")])
    there = commit_rows(load_examples(other), tmp_path / "other" / "rows")
    assert RankOfLength().fit(rows).fingerprint() != RankOfLength().fit(there).fingerprint()


def test_fields_that_are_not_read_do_not_matter(rows: RowStore) -> None:
    renamed = [Example(messages=e.messages, row=e.row, source="someone") for e in rows]
    assert corpus_identity(rows, ("messages",)) == corpus_identity(renamed, ("messages",))
    assert corpus_identity(rows, ("messages", "source")) != corpus_identity(renamed, ("messages", "source"))
