"""Filters whose scores depend on all rows."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Self

import xxhash
from pydantic import PrivateAttr

from curate.errors import UsageError
from curate.examples import Example, stable_hash
from curate.filters.base import Filter
from curate.rows import RowStore


class CorpusFilter(Filter):
    """Base of filters that compare a row with the others: `fit` binds them to the rows, `learn` makes the pass over them.

    The pass is made once, when the first row is scored: a run whose scores are all there makes none.
    """

    corpus_reads: ClassVar[tuple[str, ...]] = ()
    """Example fields of the *other* rows that a score depends on; left empty, `reads`."""

    _examples: Any = PrivateAttr(default=None)
    _corpus: str | None = PrivateAttr(default=None)
    _state: Any = PrivateAttr(default=None)

    def fit(self, examples: Iterable[Example]) -> Self:
        """This filter, bound to these rows."""
        bound = self.model_copy()
        bound._examples = examples if isinstance(examples, RowStore) else list(examples)
        bound._corpus = corpus_identity(bound._examples, self.corpus_reads or self.reads)
        bound._state = None
        return bound

    def learn(self, examples: Iterable[Example]) -> Any:
        """What scoring needs to know of the rows, from one pass or more over `examples`, which may be iterated again."""
        raise NotImplementedError

    @property
    def state(self) -> Any:
        """What `learn` gave. Raises UsageError before `fit`."""
        if self._examples is None:
            raise UsageError(
                f"filter {self.name!r} compares rows with each other: call fit(examples) first, or give an output folder"
            )
        if self._state is None:
            self._state = self.learn(self._examples)
        return self._state

    def identity(self) -> dict[str, Any]:
        """The rows compared with."""
        return {"corpus": self._corpus}


def corpus_identity(examples: Iterable[Example], reads: Iterable[str]) -> str:
    """A hash of what a filter reads of all rows, in their order; a RowStore and a list of its examples give the same."""
    fields = list(reads)
    digest = xxhash.xxh3_128()
    for values in _fields_of(examples, fields):
        digest.update(stable_hash(values).encode())
    return digest.hexdigest()


def _fields_of(examples: Iterable[Example], fields: list[str]) -> Iterator[list[Any]]:
    """Of every row the values of `fields`; of its messages their hash, which `rows/` holds already."""
    if isinstance(examples, RowStore) and "extra" not in fields:
        columns = ["content_key" if field == "messages" else field for field in fields]
        for shard in examples.shards:
            table = examples.read(shard, columns)
            held = [
                [key.hex() for key in table[name].to_pylist()] if name == "content_key" else table[name].to_pylist()
                for name in columns
            ]
            yield from (list(values) for values in zip(*held, strict=True))
        return
    for example in examples:
        yield [
            stable_hash(list(example.messages)) if field == "messages" else _plain(getattr(example, field)) for field in fields
        ]


def _plain(value: Any) -> Any:
    """As JSON has it; a tuple of tests is the list that `rows/` gives back."""
    return list(value) if isinstance(value, tuple) else value if value is None or isinstance(value, (str, list)) else str(value)
