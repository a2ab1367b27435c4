"""What a recipe file may say, and that everything else is an error naming file, key and nearest valid word."""

import contextlib
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import RecipeError, UsageError
from curate.recipes import Amount, Drop, Keep, Order, Recipe, Sample, load_recipe, shipped_recipes

HEAD = "name: mine\nfilters: {length: {}, errors: {}, perplexity: {model: target}}\n"


def load(tmp_path: Path, text: str | bytes) -> Recipe:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_recipe(path)


def step(tmp_path: Path, text: str) -> Any:
    (only,) = load(tmp_path, f"{HEAD}steps:\n  - {text}\n").steps
    return only


def complaint(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(RecipeError) as error:
        load(tmp_path, text)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in message
    return message


def step_complaint(tmp_path: Path, text: str) -> str:
    return complaint(tmp_path, f"{HEAD}steps:\n  - {text}\n")


# What is meant


@pytest.mark.parametrize(
    ("written", "share", "count"),
    [
        ("50%", Fraction(1, 2), None),
        ("0.1", Fraction(1, 10), None),
        ("12.5 %", Fraction(1, 8), None),
        ("100%", Fraction(1), None),
        ("0.99", Fraction(99, 100), None),
        ("1/1", Fraction(1), None),
        ("1e-4", Fraction(1, 10000), None),
        ("1e-3%", Fraction(1, 100000), None),
        ("500", None, 500),
        ("1", None, 1),
    ],
)
def test_amounts_are_taken_exactly_as_written(tmp_path: Path, written: str, share: Fraction | None, count: int | None) -> None:
    amount = step(tmp_path, f"keep: {{field: length.words, lowest: {written}}}").amount
    assert (amount.share, amount.count) == (share, count)


@pytest.mark.parametrize(
    ("share", "rows", "kept"),
    [("50%", 3, 2), ("50%", 1, 1), ("50%", 5, 3), ("10%", 4, 1), ("10%", 15, 2), ("100%", 7, 7), ("33%", 100, 33), ("50%", 0, 0)],
)
def test_a_share_of_rows_is_rounded_half_up_and_at_least_one(share: str, rows: int, kept: int) -> None:
    assert Amount.parse(share).of(rows) == kept


def test_a_count_above_the_rows_keeps_all() -> None:
    assert Amount.parse(10).of(3) == 3


@pytest.mark.parametrize(("written", "value"), [("1e-4", 1e-4), ("0.5", 0.5), ("3", 3.0), ("010", 10.0), ("-2", -2.0)])
def test_bounds_are_numbers(tmp_path: Path, written: str, value: float) -> None:
    assert step(tmp_path, f"drop: {{field: length.words, above: {written}}}").above == value


def test_a_group_may_be_written_alone(tmp_path: Path) -> None:
    assert step(tmp_path, "keep: {field: length.words, lowest: 5, within: source}").within == ("source",)


def test_words_like_no_and_on_are_words(tmp_path: Path) -> None:
    found = load(tmp_path, "name: 'no'\nsummary: on\nfilters: {length: }\nsteps:\n  - sample: {keep: 5}\n")
    assert (found.name, found.summary, found.filters) == ("no", "on", {"length": {}})


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    text = f"{HEAD}steps:\n  - deduplicate: exact\n"
    assert load(tmp_path, b"\xef\xbb\xbf" + text.encode()) == load(tmp_path, text)


def test_unscored_rows_are_an_error_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, f"{HEAD}steps:\n  - deduplicate: exact\n").unscored == "error"


def test_loading_a_recipe_needs_no_model(tmp_path: Path) -> None:
    found = load(tmp_path, f"{HEAD}steps:\n  - keep: {{field: perplexity.nll, lowest: 5}}\n")
    assert found.needs_model
    with pytest.raises(UsageError, match="--model"):
        found.build_filters(None)


def test_what_the_recipe_says_of_the_model_wins_over_the_command_line(tmp_path: Path) -> None:
    text = "name: mine\nfilters: {perplexity: {model: target, max_length: 64}}\nsteps:\n  - deduplicate: exact\n"
    built = load(tmp_path, text).build_filters({"model": "m", "max_length": 128, "dtype": "float32"})["perplexity"]
    assert built.model_dump() | {"model": "m", "max_length": 64, "dtype": "float32"} == built.model_dump()


# What is not


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        ("# only a comment", "found nothing"),
        ("- a\n- b", "found a list"),
        ("just text", "found a str"),
        ("name: a\n---\nname: b\n", "holds 2 documents"),
        ("name: a\nname: b\n", "duplicate key"),
        ("steps: [}", "not valid YAML"),
        ("name: \x03", "not valid YAML"),
        ("name: &x a\nsummary: *x\n", "line 1: anchors, aliases and tags"),
        ("name: !!python/object/apply:os.system [true]\n", "anchors, aliases and tags"),
        ("name: !!str x\n", "anchors, aliases and tags"),
        ("{[1]: 2}", ""),
        ("? [{a: 1}]\n: 2\n", "not valid YAML"),
        ("1: 2", "keys must be words"),
        (b"\xff\xfe\x00", "UTF-8"),
        (HEAD, "steps: Field required"),
        (f"{HEAD}steps: []", "without steps"),
        (f"{HEAD}steps: {{}}", "steps"),
        (f"{HEAD}steps: [deduplicate]", "a step is one word with its settings"),
        (f"{HEAD}steps: [{{drop: {{}}, keep: {{}}}}]", "a step is one word with its settings"),
        ("name: Über\nsteps: [{deduplicate: exact}]", "name"),
        ("name: ../x\nsteps: [{deduplicate: exact}]", "name"),
        ("name: no\nfilters: {length: {}}\nsteps: [{deduplicate: exact}]\nunscored: drpo", "unscored"),
        ("nmae: x\nsteps: [{deduplicate: exact}]", "unknown key 'nmae'; did you mean 'name'?"),
        ("name: x\nfilters: {lenght: {}}\nsteps: [{deduplicate: exact}]", "'lenght'; did you mean 'length'?"),
        ("name: x\nfilters: {length: {n: 3}}\nsteps: [{deduplicate: exact}]", "unknown key 'n'"),
        ("name: x\nfilters: {length: 3}\nsteps: [{deduplicate: exact}]", "filters.length"),
        (
            "name: x\nfilters: {perplexity: {model: target, dytpe: float32}}\nsteps: [{deduplicate: exact}]",
            "did you mean 'dtype'?",
        ),
        ("name: x\nfilters: {perplexity: {}}\nsteps: [{deduplicate: exact}]", "model"),
        ("name: x\nfilters: [length]\nsteps: [{deduplicate: exact}]", "filters"),
    ],
)
def test_a_file_that_is_no_recipe_says_what_is_wrong(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kepe: {field: length.words, lowest: 5}", "unknown step 'kepe'; did you mean 'keep'?"),
        ("deduplicate: fuzzy", "'exact'"),
        ("drop: 5", "drop needs settings"),
        ("drop: {field: length.words}", "needs either `is` or a bound"),
        ("drop: {field: length.words, abvoe: 3}", "unknown key 'abvoe'; did you mean 'above'?"),
        ("drop: {field: length.words, above: .nan}", "finite"),
        ("drop: {field: length.words, below: -.inf}", "finite"),
        ("drop: {field: length.words, above: 1, below: 1}", "would leave nothing"),
        ("drop: {field: length.words, above: 1, below: 2}", "would leave nothing"),
        ("drop: {field: length.words, above: 5%}", "above"),
        ("drop: {field: length.words, above: '3'}", "above"),
        ("drop: {field: length.words, above: yes}", "above"),
        ("drop: {field: length.words, above: true}", "above"),
        ("drop: {field: length.words, above: 1:30}", "above"),
        ("drop: {field: length.words, above: 2020-01-01}", "above"),
        ("drop: {field: length.words, is: true}", "the output is int64"),
        ("drop: {field: errors.fatal, above: 0}", "needs a number"),
        ("drop: {field: errors.fatal, is: true, above: 0}", "needs either `is` or a bound"),
        ("drop: {field: lenght.words, above: 3}", "lists no filter 'lenght'; did you mean 'length'?"),
        ("drop: {field: length.wrods, above: 3}", "did you mean 'words'?"),
        ("drop: {field: length, above: 3}", "length gives"),
        ("drop: {field: length.words.x, above: 3}", "did you mean 'words'?"),
        ("keep: {field: length.words}", "exactly one of `lowest` and `highest`"),
        ("keep: {field: length.words, lowest: 5, highest: 5}", "exactly one of `lowest` and `highest`"),
        ("keep: {field: length.words, lowest: 0}", "at least 1"),
        ("keep: {field: length.words, lowest: -3}", "at least 1"),
        ("keep: {field: length.words, lowest: 0%}", "above 0 %"),
        ("keep: {field: length.words, lowest: 0.0}", "above 0 %"),
        ("keep: {field: length.words, lowest: -5%}", "above 0 %"),
        ("keep: {field: length.words, lowest: 150%}", "at most 100 %"),
        ("keep: {field: length.words, lowest: 1.0}", "write 100% or 1"),
        ("keep: {field: length.words, lowest: '1'}", "write 100% or 1"),
        ("keep: {field: length.words, lowest: 1e0}", "write 100% or 1"),
        ("keep: {field: length.words, lowest: 1.5}", "at most 100 %"),
        ("keep: {field: length.words, lowest: .nan}", "must be a share"),
        ("keep: {field: length.words, lowest: .inf}", "must be a share"),
        ("keep: {field: length.words, lowest: half}", "must be a share"),
        ("keep: {field: length.words, lowest: true}", "must be a share"),
        ("keep: {field: length.words, lowest: '1e999999999'}", "must be a share"),
        ("keep: {field: length.words, lowest: '1e-999999999%'}", "must be a share"),
        ("keep: {field: length.words, lowest: {}}", "must be a share"),
        ("keep: {field: length.words, lowest: {share: 2}}", ""),
        ("keep: {field: length.words, lowest: {share: 0.5, count: 3}}", ""),
        ("keep: {field: length.words, lowest: 5, within: promt}", "within"),
        ("keep: {field: length.words, lowest: 5, within: []}", "each group once"),
        ("keep: {field: length.words, lowest: 5, within: [prompt, prompt]}", "each group once"),
        ("sample: {keep: 5, seed: -1}", "seed"),
        ("sample: {keep: 5, seed: 1.5}", "seed"),
        ("sample: {keep: 5, seed: true}", "seed"),
        ("sample: {keep: 5, seed: 99999999999999999999999}", "seed"),
        ("order: {}", "exactly one"),
        ("order: {field: length.words, random: 1}", "exactly one"),
        ("order: {random: 99999999999999999999999}", "random"),
        ("order: {random: 1}\n  - deduplicate: exact", "must be the last"),
        ("{1: {}}", "unknown step"),
        ("drop: {1: 2}", "keys must be words"),
    ],
)
def test_a_step_that_cannot_be_meant_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    assert said in step_complaint(tmp_path, text)


@pytest.mark.parametrize("bad", ["keep: {field: length.words}", "drop: {field: length.wrods, above: 3}", "kepe: 3", "drop: 3"])
def test_a_wrong_step_is_counted_as_check_counts(tmp_path: Path, bad: str) -> None:
    assert ": step 2: " in complaint(tmp_path, f"{HEAD}steps:\n  - deduplicate: exact\n  - {bad}\n")


@pytest.mark.parametrize("trial", ["{primary: foo}", "{primary: random, against: [foo]}", "{primary: 'source:'}"])
def test_an_arm_that_does_not_exist_is_refused(tmp_path: Path, trial: str) -> None:
    assert "unknown arm" in complaint(tmp_path, f"{HEAD}steps:\n  - deduplicate: exact\ntrial: {trial}\n")


def test_sources_and_shipped_recipes_are_arms(tmp_path: Path) -> None:
    found = load(tmp_path, f"{HEAD}steps:\n  - deduplicate: exact\ntrial: {{primary: longest50, against: ['source:gpt 4']}}\n")
    assert (found.trial.primary, found.trial.against) == ("longest50", ("source:gpt 4",))


def test_a_wrong_group_lists_the_right_ones(tmp_path: Path) -> None:
    message = step_complaint(tmp_path, "keep: {field: length.words, lowest: 5, within: [promt]}")
    assert all(word in message for word in ("prompt", "stratum", "source", "dataset"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("familiarity-top5", "did you mean 'familiarity-top50'?"),
        ("nothing.yaml", "no such recipe file"),
        ("folder/x", "no such recipe file"),
        ("", "unknown recipe"),
        ("a\0b", "unknown recipe"),
        (".", "unknown recipe"),
    ],
)
def test_an_unknown_recipe_names_the_nearest(name: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace("?", r"\?")):
        load_recipe(name)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    assert "at most 1,048,576" in complaint(tmp_path, b"# " + b"x" * (1 << 20))


def test_a_file_with_too_many_nodes_is_refused(tmp_path: Path) -> None:
    assert "tokens" in complaint(tmp_path, "a: [" + "1," * 20_000 + "1]")


def test_a_file_nested_too_deep_is_refused(tmp_path: Path) -> None:
    complaint(tmp_path, "a: " + "[" * 3000 + "]" * 3000)


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "anchors" in complaint(tmp_path, bomb)


# Properties

AMOUNTS = st.one_of(
    st.integers(1, 10**6), st.integers(1, 1000).map(lambda n: f"{n / 10}%"), st.floats(0.001, 0.999).map(lambda x: round(x, 4))
)
GROUPS = st.lists(st.sampled_from(["prompt", "stratum", "source", "dataset"]), min_size=1, unique=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FIELDS = st.sampled_from(["length.words", "length.characters"])
STEPS = st.one_of(
    st.just({"deduplicate": "exact"}),
    st.builds(lambda field, above: {"drop": {"field": field, "above": above}}, FIELDS, NUMBERS),
    st.builds(lambda field, below: {"drop": {"field": field, "below": below}}, FIELDS, NUMBERS),
    st.builds(lambda flag: {"drop": {"field": "errors.fatal", "is": flag}}, st.booleans()),
    st.builds(
        lambda word, field, end, amount, within: {word: {"field": field, end: amount, "within": within}},
        st.sampled_from(["keep", "best_of"]),
        FIELDS,
        st.sampled_from(["lowest", "highest"]),
        AMOUNTS,
        GROUPS,
    ),
    st.builds(
        lambda keep, seed, within: {"sample": {"keep": keep, "seed": seed, "within": within}}, AMOUNTS, st.integers(0, 99), GROUPS
    ),
)
LAST = st.one_of(
    st.none(),
    st.builds(lambda seed: {"order": {"random": seed}}, st.integers(0, 99)),
    st.builds(lambda field, first: {"order": {"field": field, "first": first}}, FIELDS, st.sampled_from(["lowest", "highest"])),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=4), LAST, st.sampled_from(["keep", "drop", "error"]))
def test_a_recipe_is_its_data(steps: list[Any], last: Any, unscored: str) -> None:
    filters: Any = {"length": {}, "errors": None}
    recipe = Recipe(name="x", filters=filters, steps=(*steps, *filter(None, [last])), unscored=unscored)
    assert Recipe(**recipe.as_data()) == recipe
    assert Recipe(**recipe.as_data()).as_data() == recipe.as_data()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_its_data(name: str) -> None:
    assert Recipe(**load_recipe(name).as_data()) == load_recipe(name)


SHIPPED = [path.read_bytes() for path in shipped_recipes().values()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_recipes_raise_nothing_but_recipe_errors(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    data = bytearray(dice.choice(SHIPPED))
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(data))
        piece = dice.choice(
            [bytes([dice.randrange(256)]), dice.choice(b":-{}[],&*!#|>'\"%@`?\n\t ").to_bytes(1, "big"), b"", b"\n- "]
        )
        data[place : place + dice.randint(0, 3)] = piece
    path = tmp_path / "mine.yaml"
    path.write_bytes(bytes(data))
    with contextlib.suppress(RecipeError):
        load_recipe(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=":-{}[],&*!#|>'\"%@`?~<=.\n\t abn019eE+_é\x85\u2028\ufeff", max_size=40))
def test_any_text_raises_nothing_but_recipe_errors(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load(tmp_path, text)


def test_steps_are_written_out_in_words() -> None:
    assert str(Drop(field="a.b", above=0.5, below=-1)) == "drop a.b above 0.5 or below -1"
    assert str(Drop(field="a.b", above=1.0000001)) == "drop a.b above 1.0000001"
    assert (
        str(Keep(field="a.b", lowest=Amount.parse("50%"), within=("prompt", "source")))
        == "keep a.b lowest 50% within prompt, source"
    )
    assert str(Sample(keep=Amount.parse(5), seed=3)) == "sample 5 within dataset (seed 3)"
    assert str(Order(random=0)) == "order random (seed 0)"
