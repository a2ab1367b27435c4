"""What every filter promises, checked for all that are known."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curate.examples import Example
from curate.filters import Filter, Scores, Unscored, known_filters

TYPES = {
    "float64": (float,),
    "int64": (int,),
    "bool": (bool,),
    "string": (str,),
    "float64[]": (list,),
    "int64[]": (list,),
    "float16[]": (list,),
}
NAMES = [name for name, cls in known_filters().items() if cls.__module__.startswith("curate.")]
NEEDS = {
    "toxicity": {"checkpoint": "toxicity_checkpoint"},
    "self_aligned": {"own": "own_source"},
    "detector_model": {"classifier": "detector_folder"},
    "contamination": {"against": "evaluation_file"},
    "few_shot": {"few_shot": "shots_file", "max_length": "half_of_positions"},
    "binoculars": {"observer": "model_folder", "fewest_words": "one"},
}
"""Parameters without which a filter refuses, and the fixtures that give them."""
TEXT_FILTERS = [name for name in NAMES if "model" not in known_filters()[name].model_fields and name not in NEEDS]


def example(completion: str, *, gold: str | None = None, row: int = 0) -> Example:
    return Example(
        messages=[{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": completion}], row=row, gold=gold
    )


EXAMPLES = [
    example("2 + 3 = 5\nFinal Answer: 5", gold="5", row=0),
    example("Sure! Here is the answer:\n2 + 3 = 6. 2 + 3 = 6. 2 + 3 = 6. 2 + 3 = 6.", gold="5", row=1),
    example("It is five, because two and", row=2),
    example("", gold="5", row=3),
    example(" \n\t", row=4),
    example("<<2+3=5>> ```python\nprint(", row=5),
    example("日本語の答え：五 🦊\u200b\x00", gold="五", row=6),
]


# Right answers to other questions, by a source that stands for the target model; not scored here.
OWN = [
    Example(
        [{"role": "user", "content": f"What is {row} + 1?"}, {"role": "assistant", "content": f"It is {row + 1}."}],
        row=row,
        source="own",
        gold=str(row + 1),
    )
    for row in range(len(EXAMPLES), len(EXAMPLES) + 4)
]


@pytest.fixture(scope="session")
def evaluation_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "test.jsonl"
    path.write_text('{"prompt": "What is 2 + 3?"}\n')
    return path


@pytest.fixture(params=NAMES)
def fitted(request: pytest.FixtureRequest) -> Filter:
    """Each known filter with default parameters, fitted where it learns from the corpus."""
    cls = known_filters()[request.param]
    given = {"model": str(request.getfixturevalue("model_folder"))} if "model" in cls.model_fields else {}
    given |= {name: str(request.getfixturevalue(fixture)) for name, fixture in NEEDS.get(request.param, {}).items()}
    built = cls.model_validate(given)
    return built.fit([*EXAMPLES, *OWN]) if cls.needs_corpus() else built


@pytest.fixture
def half_of_positions() -> int:
    return 256


@pytest.fixture(scope="session")
def shots_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shots") / "shots.jsonl"
    path.write_text('{"prompt": "What is 1 + 1?", "completion": "1 + 1 = 2"}\n{"prompt": "More?", "completion": "No."}\n')
    return path


@pytest.fixture
def one() -> int:
    return 1


@pytest.fixture
def own_source() -> str:
    return "own"


def score_all(one: Filter, examples: Sequence[Example]) -> list[Scores | Unscored]:
    """The scores, also of a filter that derives them from another filter's."""
    needed = {name: score_all(other, examples) for name, other in one.depends().items()}
    if not needed:
        return one.score_batch(examples)
    return [one.derive(each, {name: scores[at] for name, scores in needed.items()}) for at, each in enumerate(examples)]


def assert_as_declared(one: Filter, result: Scores | Unscored) -> None:
    if isinstance(result, Unscored):
        assert result.reason
        return
    assert set(result) == set(one.outputs)
    for name, value in result.items():
        assert value is None or type(value) in TYPES[one.outputs[name]], f"{one.name}.{name} is {value!r}"


def test_outputs_are_as_declared(fitted: Filter) -> None:
    results = score_all(fitted, EXAMPLES)
    assert len(results) == len(EXAMPLES)
    for result in results:
        assert_as_declared(fitted, result)


def test_order_is_kept_and_batch_size_irrelevant(fitted: Filter) -> None:
    together = score_all(fitted, EXAMPLES)
    alone = [score_all(fitted, [each])[0] for each in EXAMPLES]
    backwards = score_all(fitted, EXAMPLES[::-1])[::-1]
    for one, other, third in zip(together, alone, backwards, strict=True):
        assert _close(one, other)
        assert _close(one, third)


def _close(one: Scores | Unscored, other: Scores | Unscored) -> bool:
    if isinstance(one, Unscored) or isinstance(other, Unscored):
        return one == other
    floats = {name: value for name, value in one.items() if isinstance(value, float)}
    lists = {name: value for name, value in one.items() if isinstance(value, list)}
    rest = {name: value for name, value in one.items() if name not in {*floats, *lists}}
    return (
        floats == pytest.approx({name: other[name] for name in floats}, abs=1e-5)
        # Two numbers that differ in the last digit may be rounded to neighbouring float16.
        and all(value == pytest.approx(other[name], rel=1e-3, abs=1e-5) for name, value in lists.items())
        and rest == {name: other[name] for name in rest}
    )


def test_an_empty_batch_gives_no_results(fitted: Filter) -> None:
    assert list(fitted.score_batch([])) == []


def test_an_empty_completion_never_raises(fitted: Filter) -> None:
    for text in ("", " ", "\n\n"):
        assert_as_declared(fitted, score_all(fitted, [example(text)])[0])


def test_filter_is_a_frozen_value(fitted: Filter) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert again == fitted
    assert again.fingerprint() == fitted.fingerprint()
    assert type(fitted).__name__ in repr(fitted)
    with pytest.raises(ValidationError):
        fitted.name_that_no_filter_has = 1  # type: ignore[attr-defined]
    for field in type(fitted).model_fields:
        with pytest.raises(ValidationError):
            setattr(fitted, field, 1)


@pytest.mark.parametrize("name", NAMES)
def test_data_sheet_names_every_output(name: str) -> None:
    cls = known_filters()[name]
    sheet = cls.__doc__ or ""
    assert [output for output in cls.outputs if output not in sheet] == []
    assert "Cost:" in sheet
    assert "Source:" in sheet


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_described(name: str) -> None:
    fields = known_filters()[name].model_fields
    assert [field for field, info in fields.items() if not info.description] == []


@pytest.mark.parametrize("name", TEXT_FILTERS)
@given(text=st.text(), gold=st.none() | st.text())
@settings(deadline=None, max_examples=200)
def test_no_text_raises(name: str, text: str, gold: str | None) -> None:
    cls = known_filters()[name]
    each = example(text, gold=gold)
    one = cls().fit([each]) if cls.needs_corpus() else cls()
    assert_as_declared(one, score_all(one, [each])[0])
