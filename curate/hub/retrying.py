"""Requests to the Hub that fail in passing are made again, within bounds; what is final becomes one line that says what to do.

`huggingface_hub` (2.4) waits and tries again by itself in some calls (uploads, listings) and not in others (commit, repository
info); where it does, it sleeps as long as a server says, a day if need be, and does not read dates. So while a push runs, an
answer that asks to come back later is raised at once in every call, and the waiting is done here and nowhere else. Only broken
connections are still retried by the client where it does so (five times, 23 s in all), and by us only once more.
"""

import contextlib
import email.utils
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from curate import progress
from curate.errors import CurateError, InputError, NetworkError
from curate.examples.record import excerpt

T = TypeVar("T")
PASSING = (408, 429, 500, 502, 503, 504)
AGAIN = "run the same command again later: it goes on where this one ended"
LOGGERS = ("huggingface_hub.utils._http", "huggingface_hub.hf_api", "huggingface_hub._commit_api")


@dataclass(frozen=True)
class Patience:
    """How long a push waits for a Hub that does not do what it should. The sending of files is not counted."""

    first_s: float = 1.0
    """The first waiting time that nobody stated; doubles with every try, less up to half of it by chance."""
    longest_s: float = 60.0
    """The longest waiting time that nobody stated."""
    stated_s: float = 600.0
    """The longest waiting time that the Hub may ask for."""
    total_s: float = 1800.0
    """All waiting of one push."""
    tries: int = 7
    """Of one request, where the Hub states no waiting time: about a minute."""
    answer_s: float = 300.0
    """How long a connection may be silent. The client would wait for ever."""


@dataclass(frozen=True)
class Trouble:
    """A request that did not succeed."""

    words: str
    """What happened, in one line, without secrets."""
    is_passing: bool
    status: int | None = None
    code: str | None = None
    """The Hub's own name for it, such as RepoNotFound."""
    stated_s: float | None = None
    is_connection: bool = False
    """It broke on the way; there was no answer."""

    def if_moved(self) -> "Trouble":
        """The same, to be tried again where the branch had moved since it was looked at, or was just being written to."""
        return replace(self, is_passing=True) if self.status in (409, 412) else self


class Waiting:
    """The patience of one push: tries again, waits, and gives up with an explanation."""

    def __init__(self, patience: Patience, about: str) -> None:
        self.patience, self.about = patience, about
        self._left_s = patience.total_s
        # Two pushes that were turned away together must not come back together; the draw decides nothing else.
        self._random = random.Random()

    def once(self, action: Callable[[], T]) -> T | Trouble:
        """The action's result, or why it failed; bugs are raised as they are."""
        try:
            with _steady_client(self.patience):
                return action()
        except Exception as error:
            if (trouble := diagnose(error)) is None:
                raise
        return trouble

    def call(self, what: str, action: Callable[[], T], *, client_retries: bool = False) -> T:
        """The result of an action that may be repeated; `client_retries`: the client itself does so when a connection breaks."""
        attempt = 0
        while isinstance(outcome := self.once(action), Trouble):
            attempt += 1
            self.pause(what, outcome, attempt, client_retries=client_retries)
        return outcome

    def find(self, what: str, action: Callable[[], T], *, unless: str) -> T | None:
        """Like `call`; None where the Hub says that there is no such thing (`unless`: its name for that)."""
        attempt = 0
        while isinstance(outcome := self.once(action), Trouble):
            if outcome.code == unless:
                return None
            attempt += 1
            self.pause(what, outcome, attempt)
        return outcome

    def pause(self, what: str, trouble: Trouble, attempt: int, *, client_retries: bool = False) -> None:
        """Wait before the next try; raises when there is no use in one, or when patience is at its end."""
        patience = self.patience
        if not trouble.is_passing:
            raise self.error(what, trouble)
        tries = 2 if client_retries and trouble.is_connection else patience.tries
        if trouble.stated_s is not None:
            seconds = trouble.stated_s + self._random.uniform(0, min(1.0, patience.first_s))
            if trouble.stated_s > patience.stated_s:
                later = progress.duration(trouble.stated_s)
                raise self.error(what, trouble, f"it asks to come back in {later}; {AGAIN}")
        elif attempt >= tries:
            raise self.error(what, trouble, f"tried {attempt} times; {AGAIN}")
        else:
            seconds = min(patience.longest_s, patience.first_s * 2 ** (attempt - 1)) * self._random.uniform(0.5, 1)
        if seconds > self._left_s:
            raise self.error(what, trouble, f"gave up after {progress.duration(patience.total_s)} of waiting; {AGAIN}")
        self._left_s -= seconds
        self._sleep(f"{self.about}: {what}: {trouble.words}", seconds)

    def _sleep(self, words: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            progress.note(f"{words}; trying again in {progress.duration(left)}")
            time.sleep(min(left, 60.0))

    def error(self, what: str, trouble: Trouble, advice: str | None = None) -> CurateError:
        """The one line for a person."""
        kind = InputError if trouble.code == "BadCard" else NetworkError
        return kind(f"{self.about}: {what}: {trouble.words}; {advice or _advice(trouble)}")


def _advice(trouble: Trouble) -> str:
    if trouble.code == "Offline":
        return "unset HF_HUB_OFFLINE to push"
    if trouble.status == 401 or trouble.code == "NoToken":
        return "log in with a token that may write: hf auth login (or set HF_TOKEN)"
    if trouble.status == 403:
        return (
            "make a token that may write there (https://huggingface.co/settings/tokens) and log in with it: hf auth login; "
            "or push to a name below your own user name"
        )
    if trouble.status == 404:
        return "check the spelling, and that the token may see it: hf auth whoami"
    if trouble.status == 402:
        return "see the storage and billing page of the account on the Hub"
    if trouble.code == "BadCard":
        return "mend the header of README.md"
    return "nothing was published by this request; if you cannot tell why, look at the repository's page on the Hub"


def diagnose(error: Exception) -> Trouble | None:
    """What an exception of the Hub's clients means; None for anything that is not theirs."""
    import httpx2
    from huggingface_hub import errors

    # Uploads are wrapped: RuntimeError("Error while uploading ...") from the real one.
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__
    said = excerpt(redacted(" ".join(str(error).split()))) or type(error).__name__
    if isinstance(error, errors.HfHubHTTPError):
        return _from_answer(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Trouble("the Hub client is in offline mode", False, code="Offline")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return Trouble("nobody is logged in", False, code="NoToken")
    if isinstance(error, httpx2.TimeoutException):
        return Trouble(f"no answer in time ({said})", True, is_connection=True)
    if isinstance(error, httpx2.RequestError):
        return Trouble(f"the connection failed ({said})", True, is_connection=True)
    if isinstance(error, json.JSONDecodeError):
        return Trouble("the answer is not the Hub's (a login page or proxy in between?)", True)
    if isinstance(error, ValueError) and "README.md" in said:
        return Trouble(said, False, code="BadCard")
    # Xet's transfers fail with plain RuntimeErrors and OSErrors after retries of their own (hf_xet 1.x).
    if isinstance(error, PermissionError) or type(error) is ValueError:
        return Trouble(said, False)
    if isinstance(error, ConnectionError | TimeoutError) or type(error) in (RuntimeError, OSError):
        return Trouble(said, True, is_connection=True)
    return None


def _from_answer(error: Any) -> Trouble:
    status, headers = error.response.status_code, error.response.headers
    said = error.server_message or error.response.reason_phrase or ""
    words = f"{status} {excerpt(redacted(' '.join(said.split())))}".strip()
    code = headers.get("X-Error-Code") or None
    if status == 404 and code is None and type(error).__name__ == "RepositoryNotFoundError":
        code = "RepoNotFound"
    is_passing = status in PASSING
    return Trouble(words, is_passing, status, code, stated_wait(status, headers) if is_passing else None)


def stated_wait(status: int, headers: Any) -> float | None:
    """Seconds that an answer asks to wait; None where it does not say."""
    from huggingface_hub.utils._http import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers) if status == 429 else None
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = (headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
        # Both times by the server's clock where it tells it: ours may be wrong.
        since = email.utils.parsedate_to_datetime(headers.get("Date") or email.utils.formatdate(usegmt=True))
        return max(0.0, (until - since).total_seconds())
    except (TypeError, ValueError):
        return None


def redacted(text: str) -> str:
    """A text without tokens, without names and passwords in addresses, and without signed parameters."""
    from huggingface_hub import get_token

    with contextlib.suppress(Exception):
        if token := get_token():
            text = text.replace(token, "***")
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+\S+", r"\1 ***", text)
    text = re.sub(r"(\w://)[^/\s@]+@", r"\1", text)
    return re.sub(r"(\w://[^\s?'\"]+)\?[^\s'\"]*", r"\1", text)


@contextlib.contextmanager
def _steady_client(patience: Patience) -> Iterator[None]:
    """The Hub's client with a limit on silence, without sleeping of its own, bars, or lines that show signed addresses."""
    import httpx2
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils._http import hf_raise_for_status
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    limit = httpx2.Timeout(patience.answer_s, connect=min(30.0, patience.answer_s), pool=None).as_dict()

    def limited(request: httpx2.Request) -> None:
        asked = request.extensions.get("timeout") or {}
        request.extensions = {**request.extensions, "timeout": limit | {k: v for k, v in asked.items() if v is not None}}

    def turned_away(response: httpx2.Response) -> None:
        if response.status_code in PASSING:
            response.read()
            hf_raise_for_status(response)

    # Made anew by the client after a failed connection; so looked up each time.
    session = get_session()
    before = session.event_hooks
    session.event_hooks = {"request": [*before["request"], limited], "response": [*before["response"], turned_away]}
    loud = [(logger, logger.level) for logger in map(logging.getLogger, LOGGERS)]
    # Who set the variable has decided, and the switch would only warn.
    had_bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    try:
        for logger, _ in loud:
            logger.setLevel(logging.ERROR)
        if had_bars:
            disable_progress_bars()
        yield
    finally:
        session.event_hooks = before
        for logger, level in loud:
            logger.setLevel(level)
        if had_bars:
            enable_progress_bars()
