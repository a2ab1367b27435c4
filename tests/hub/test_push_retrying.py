"""What the Hub's errors mean, how long it asks to wait, and that no secret gets into a message."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_hub import Fault, HubProcess
from hub_publications import Pusher, must_show, write_publication
from huggingface_hub import errors

from curate import progress
from curate.errors import InputError, NetworkError
from curate.hub import Patience
from curate.hub.retrying import Trouble, Waiting, diagnose, redacted, stated_wait

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {}, None),
        (429, {"Retry-After": "120"}, 120),
        (503, {"Retry-After": " 7 "}, 7),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:30:00 GMT", "Date": DATE}, 120),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:00:00 GMT", "Date": DATE}, 0),
        (429, {"Retry-After": "Wed, 21 Oct 2020 07:00:00 GMT"}, 0),
        (429, {"Retry-After": "soon"}, None),
        (429, {"Retry-After": "-5"}, None),
        (429, {"RateLimit": '"api";r=0;t=55', "Retry-After": "1"}, 55),
        (429, {"RateLimit": '"api";r=3;t=55'}, None),
        (503, {"RateLimit": '"api";r=0;t=55'}, None),
    ],
)
def test_how_long_an_answer_asks_to_wait(status: int, headers: dict[str, str], seconds: float | None) -> None:
    assert stated_wait(status, httpx2.Headers(headers)) == seconds


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token hf_abcdefghijklmnop is bad", "token *** is bad"),
        ("mine is live-token-1234", "mine is ***"),
        ("https://user:pw@host/path?X-Amz-Signature=abc&x=1 failed", "https://host/path failed"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("GET 'https://host/a?b=c': 500", "GET 'https://host/a': 500"),
        ("nothing to hide?", "nothing to hide?"),
    ],
)
def test_secrets_are_taken_out_of_texts(monkeypatch: pytest.MonkeyPatch, text: str, shown: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "live-token-1234")
    assert redacted(text) == shown


def answered(status: int, **headers: str) -> errors.HfHubHTTPError:
    request = httpx2.Request("GET", "https://hub/api", headers={"Authorization": "Bearer hf_abcdefghijklmnop"})
    response = httpx2.Response(status, headers=headers, request=request)
    return errors.HfHubHTTPError("words", response=response, server_message="two\nlines \x1b[31m")


def wrapped(cause: Exception) -> RuntimeError:
    error = RuntimeError("Error while uploading 'x' to the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answered(500), (True, 500, False)),
        (answered(429), (True, 429, False)),
        (answered(408), (True, 408, False)),
        (answered(403), (False, 403, False)),
        (answered(412), (False, 412, False)),
        (answered(501), (False, 501, False)),
        (wrapped(answered(503)), (True, 503, False)),
        (wrapped(httpx2.ReadError("broken")), (True, None, True)),
        (httpx2.ConnectError("no route"), (True, None, True)),
        (httpx2.ReadTimeout("late"), (True, None, True)),
        (httpx2.TooManyRedirects("round and round"), (True, None, True)),
        (json.JSONDecodeError("no", "<html>", 0), (True, None, False)),
        (errors.OfflineModeIsEnabled("offline"), (False, None, False)),
        (errors.LocalTokenNotFoundError("no token"), (False, None, False)),
        (ValueError("LFS batch API returned errors"), (False, None, False)),
        (RuntimeError("xet: transfer failed"), (True, None, True)),
        (ConnectionError("xet: reset"), (True, None, True)),
        (PermissionError("xet: not allowed"), (False, None, False)),
    ],
)
def test_what_errors_mean(error: Exception, expected: tuple[bool, int | None, bool]) -> None:
    trouble = diagnose(error)
    assert trouble is not None
    assert (trouble.is_passing, trouble.status, trouble.is_connection) == expected
    assert trouble.words.isprintable()


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), AssertionError("x"), FileNotFoundError(2, "gone", "x"), UnicodeError("x")]
)
def test_bugs_are_not_taken_for_trouble(error: Exception) -> None:
    assert diagnose(error) is None
    waiting = Waiting(Patience(), "me/x")

    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        waiting.call("testing", fails)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting times, which take none."""
    times: list[float] = []
    monkeypatch.setattr(Waiting, "_sleep", lambda self, words, seconds: times.append(seconds))
    return times


def gives_up(patience: Patience, trouble: Trouble, **options: Any) -> str:
    waiting = Waiting(patience, "me/x")
    for attempt in range(1, 100):
        try:
            waiting.pause("testing", trouble, attempt, **options)
        except NetworkError as error:
            return str(error)
    raise AssertionError("never gave up")


def test_waiting_times_double_up_to_a_bound_less_a_part_by_chance(slept: list[float]) -> None:
    message = gives_up(Patience(first_s=1, longest_s=5, tries=6), Trouble("down", True))
    bounds = [1, 2, 4, 5, 5]
    assert len(slept) == len(bounds)
    assert all(bound / 2 <= time <= bound for time, bound in zip(slept, bounds, strict=True))
    assert message.startswith("me/x: testing: down; tried 6 times; run the same command again later")


def test_where_the_client_retries_connections_it_is_tried_once_more_only(slept: list[float]) -> None:
    assert "tried 2 times" in gives_up(Patience(), Trouble("down", True, is_connection=True), client_retries=True)
    assert len(slept) == 1
    assert "tried 7 times" in gives_up(Patience(), Trouble("down", True, 500), client_retries=True)


def test_the_default_patience_survives_a_rate_limit_of_five_minutes(slept: list[float]) -> None:
    message = gives_up(Patience(), Trouble("429", True, 429, stated_s=300.0))
    assert sum(slept) >= 1500
    assert sum(slept) <= 1800
    assert "gave up after 30 min" in message


def test_waiting_says_what_for_once_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    with progress.shown():
        Waiting(Patience(first_s=0), "me/x").pause("committing", Trouble("429 slow down", True, 429, stated_s=150.0), 1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("; ")[2] for line in lines] == [
        "trying again in 2 min 30 s",
        "trying again in 1 min 30 s",
        "trying again in 30 s",
    ]
    assert lines[0].startswith("me/x: committing: 429 slow down; ")


def test_a_message_holds_neither_cause_nor_context() -> None:
    waiting = Waiting(Patience(tries=1), "me/x")

    def fails() -> None:
        raise answered(500)

    with pytest.raises(NetworkError) as caught:
        waiting.call("testing", fails)
    # The client's exception carries the request with its token; a crash reporter would store it.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_a_card_that_the_hub_does_not_take_is_an_input_error(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    body = json.dumps({"errors": [{"message": '"license" must be one of'}]})
    hub.inject(Fault("POST /api/validate-yaml", status=400, body=body))
    failed = push(write_publication(tmp_path / "p"))
    assert failed["code"] == InputError.exit_code
    assert '"license" must be one of; mend the header of README.md' in failed["message"]
    assert must_show(hub).files == {}


def test_what_the_hub_thinks_of_a_card_is_told(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    body = json.dumps({"errors": [], "warnings": [{"message": "empty or missing yaml"}]})
    hub.inject(Fault("POST /api/validate-yaml", status=200, body=body))
    done = push(write_publication(tmp_path / "p"))
    assert done["is_new"]
    assert "empty or missing yaml" in done["notes"]


def test_bars_hooks_and_log_levels_of_the_client_are_as_before() -> None:
    import logging

    from huggingface_hub import get_session
    from huggingface_hub.utils import are_progress_bars_disabled  # type: ignore[attr-defined]

    def seen() -> tuple[Any, ...]:
        hooks = get_session().event_hooks
        level = logging.getLogger("huggingface_hub.utils._http").level
        return len(hooks["request"]), len(hooks["response"]), level, are_progress_bars_disabled()

    before = seen()
    inside = Waiting(Patience(), "me/x").once(seen)
    assert seen() == before
    assert inside != before
