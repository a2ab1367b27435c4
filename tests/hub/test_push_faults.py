"""Pushing to a Hub that fails: the repository shows the old or the new publication, and one more run ends with one new commit."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HUB_TOKEN as TOKEN
from fake_hub import Fault, HubProcess
from hub_publications import (
    REPO,
    Pusher,
    begun,
    hashes,
    kill_at_random,
    must_show,
    require_one_new_commit,
    shown,
    until,
    write_publication,
)

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
A_SECOND_LATER = "Wed, 21 Oct 2026 07:28:01 GMT"
LIMITED = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
PASSING = {
    "429": Fault("", status=429),
    "429 with seconds": Fault("", status=429, headers={"Retry-After": "1"}),
    "429 with a date": Fault("", status=429, headers={"Retry-After": A_SECOND_LATER, "Date": DATE}),
    "429 with a rate limit": Fault("", status=429, headers=LIMITED),
    "500 twice": Fault("", times=2, status=500),
    "502 as a page": Fault("", status=502, body="<html>Bad gateway</html>"),
    "503 with seconds": Fault("", status=503, headers={"Retry-After": "0"}),
    "dropped before": Fault("", drop="before"),
    "dropped after": Fault("", drop="after"),
    "dropped midway": Fault("", drop="midway"),
    "a login page": Fault("", status=200, body="<html>Please log in</html>"),
}
ROUTES = {
    "info": "GET /api/datasets/me/curated$",
    "create": "POST /api/repos/create",
    "head": "GET .*/revision/main",
    "tree": "GET .*/tree/",
    "refs": "GET .*/refs",
    "modes": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "upload": "PUT /lfs/",
    "verify": "POST /lfs-verify",
    "card": "POST /api/validate-yaml",
    "commit": "POST .*/commit/main",
    "read back": "GET .*/resolve/.*/curate/publication.json",
    "tag": "POST .*/tag/",
}


@pytest.fixture
def old(hub: HubProcess, push: Pusher, tmp_path: Path) -> Path:
    """A publication that the Hub shows."""
    folder = write_publication(tmp_path / "old", title="old", parts=2)
    assert push(folder)["is_new"]
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A publication that is to take its place."""
    return write_publication(tmp_path / "new", title="new", parts=3)


# Faults that pass


def on(route: str, fault: Fault) -> Fault:
    return Fault(**{**fault.__dict__, "route": ROUTES[route]})


@pytest.mark.parametrize("fault", PASSING)
def test_a_commit_that_fails_in_passing_is_made_once(hub: HubProcess, push: Pusher, old: Path, new: Path, fault: str) -> None:
    hub.inject(on("commit", PASSING[fault]))
    done = push(new)
    assert done.get("is_new"), done
    assert hub.pending() == 0
    assert require_one_new_commit(hub, new, commits=2).sha == done["commit"]
    assert "trying again in" in done["notes"]


@pytest.mark.parametrize("fault", ["429 with seconds", "500 twice", "dropped before", "dropped after", "dropped midway"])
@pytest.mark.parametrize("route", [route for route in ROUTES if route != "commit"])
def test_every_other_request_is_made_again(hub: HubProcess, push: Pusher, tmp_path: Path, route: str, fault: str) -> None:
    folder = write_publication(tmp_path / "p")
    hub.inject(on(route, PASSING[fault]))
    done = push(folder, tag="v1")
    assert done.get("is_new"), done
    assert hub.pending() == 0
    assert require_one_new_commit(hub, folder, commits=1).tags == {"v1": done["commit"]}


def test_a_hub_that_falls_silent_is_asked_again(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    hub.inject(Fault(ROUTES["commit"], stall_s=3.0), Fault(ROUTES["read back"], stall_s=3.0, skip=1))
    done = push(new, patience={"answer_s": 1.0})
    assert done.get("is_new"), done
    assert "no answer in time" in done["notes"]
    require_one_new_commit(hub, new, commits=2)


def test_a_commit_that_lands_after_its_request_was_given_up_is_not_made_twice(
    hub: HubProcess, push: Pusher, old: Path, new: Path
) -> None:
    hub.inject(Fault(ROUTES["commit"], wait_s=2.5))
    done = push(new, patience={"answer_s": 1.0})
    assert "error" not in done, done
    time.sleep(2)
    require_one_new_commit(hub, new, commits=2)


@pytest.mark.parametrize("status", [429, 500])
def test_the_stated_waiting_time_is_waited(hub: HubProcess, push: Pusher, old: Path, new: Path, status: int) -> None:
    hub.inject(Fault(ROUTES["commit"], status=status, headers={"Retry-After": "2"}))
    start = time.monotonic()
    assert push(new)["is_new"]
    assert time.monotonic() - start >= 2


# Faults that stay


def test_a_commit_that_is_never_taken_leaves_the_old_state_and_the_next_run_ends_well(
    hub: HubProcess, push: Pusher, old: Path, new: Path
) -> None:
    hub.inject(Fault(ROUTES["commit"], times=99, status=500))
    failed = push(new)
    assert (failed["error"], failed["code"]) == ("NetworkError", 6)
    assert "committing: 500 injected; tried 4 times; run the same command again" in failed["message"]
    assert must_show(hub).files == hashes(old)
    hub.inject()
    assert push(new)["is_new"]
    require_one_new_commit(hub, new, commits=2)
    # What was sent before is not sent again.
    assert len([entry for entry in must_show(hub).log if entry["method"] == "PUT"]) == len(
        {digest for files in (hashes(old), hashes(new)) for path, digest in files.items() if path.endswith(".parquet")}
    )


@pytest.mark.parametrize("reading", ["GET .*/revision/main", "GET .*/tree/"])
def test_a_landed_commit_whose_answer_was_lost_for_good_is_found_by_the_next_run(
    hub: HubProcess, push: Pusher, old: Path, new: Path, reading: str
) -> None:
    hub.inject(Fault(ROUTES["commit"], drop="after"), Fault(reading, times=99, skip=1, status=500))
    failed = push(new, patience={"tries": 2})
    assert failed["error"] == "NetworkError"
    require_one_new_commit(hub, new, commits=2)
    hub.inject()
    assert push(new)["is_new"] is False
    require_one_new_commit(hub, new, commits=2)


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "hf auth login"),
        (402, "billing"),
        (403, "make a token that may write there"),
        (404, "check the spelling"),
        (413, "nothing was published by this request"),
        (422, "nothing was published by this request"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(
    hub: HubProcess, push: Pusher, old: Path, new: Path, status: int, advice: str
) -> None:
    before = len(must_show(hub).requests("/commit/main"))
    hub.inject(Fault(ROUTES["commit"], times=99, status=status, body='{"error": "because"}'))
    failed = push(new)
    assert failed["error"] == "NetworkError"
    assert f"committing: {status} because; " in failed["message"]
    assert advice in failed["message"]
    assert len(must_show(hub).requests("/commit/main")) == before + 1
    assert must_show(hub).files == hashes(old)


def test_a_waiting_time_beyond_patience_is_told_and_not_waited(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    for route in ("modes", "commit"):  # the client itself would sleep in the first, for as long as it is told
        hub.inject(Fault(ROUTES[route], status=429, headers={"Retry-After": "4000"}))
        failed = push(new)
        assert "it asks to come back in 1 h 6 min; run the same command again later" in failed["message"]


def test_all_waiting_is_bounded(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    hub.inject(Fault(ROUTES["commit"], times=99, status=429, headers={"Retry-After": "1"}))
    assert "gave up after" in push(new, patience={"total_s": 2.5})["message"]
    assert must_show(hub).files == hashes(old)


def test_a_token_that_may_only_read_says_so(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    failed = push.begin(folder, env={"HF_TOKEN": "hf_reads"}).outcome()
    assert "creating the repository: 403 This token may not write; make a token" in failed["message"]
    assert shown(hub) is None


def test_a_name_below_somebody_else_is_refused_by_the_hub(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    failed = push(write_publication(tmp_path / "p"), repo="them/curated")
    assert "or push to a name below your own user name" in failed["message"]


def test_without_a_token_or_a_network_it_says_what_to_do(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    assert "nobody is logged in; log in" in push.begin(folder, env={"HF_TOKEN": ""}).outcome()["message"]
    assert "unset HF_HUB_OFFLINE" in push.begin(folder, env={"HF_HUB_OFFLINE": "1"}).outcome()["message"]
    nowhere = push.begin(folder, env={"HF_ENDPOINT": "http://127.0.0.1:9"}).outcome()
    assert (nowhere["error"], nowhere["code"]) == ("NetworkError", 6)
    assert "the connection failed" in nowhere["message"]


# Wrong bytes


@pytest.mark.parametrize(
    ("route", "swap"),
    [
        ("GET .*/resolve/.*/curate/publication.json", ('"kept": 20', '"kept": 21')),
        ("GET .*/tree/", (r'("path": "data/[^}]*?"size": )\d+', r"\g<1>1")),
        ("GET .*/tree/", (r'("path": "README.md"[^}]*"oid": ")\w', r"\g<1>x")),
        ("GET .*/tree/", (r'"README.md"', '"READ.md"')),
    ],
)
def test_what_reads_back_otherwise_is_no_success(
    hub: HubProcess, push: Pusher, tmp_path: Path, route: str, swap: tuple[str, str]
) -> None:
    folder = write_publication(tmp_path / "p")
    # The first listing is that of the empty repository.
    hub.inject(Fault(route, times=1, skip=1 if "tree" in route else 0, swap=swap))
    failed = push(folder)
    assert (failed["error"], failed["code"]) == ("IntegrityError", 7)
    assert "shows other bytes than were sent in" in failed["message"]
    assert "revert the commit" in failed["message"]
    assert push(folder)["is_new"] is False
    require_one_new_commit(hub, folder, commits=1)


def test_an_upload_that_arrives_damaged_is_not_committed(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    hub.inject(Fault("PUT /lfs/", corrupt=True))
    failed = push(new)
    assert "the stored bytes are not those of the oid" in failed["message"]
    assert must_show(hub).files == hashes(old)
    assert push(new)["is_new"]
    require_one_new_commit(hub, new, commits=2)


# Others at the same time


def test_a_commit_is_known_again_below_somebody_elses(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    hub.inject(Fault(ROUTES["commit"], drop="after", stall_s=1.5))
    running = begun(push, new)
    until(lambda: len(must_show(hub).titles) == 3)
    landed = must_show(hub).sha
    hub.put(REPO, {"README.md": "by hand"})
    done = running.outcome()
    assert (done.get("commit"), done.get("is_new")) == (landed, True), done
    assert len(must_show(hub).titles) == 4
    assert must_show(hub).files["README.md"] != hashes(new)["README.md"]


def test_files_that_are_nobodys_may_change_meanwhile(hub: HubProcess, push: Pusher, old: Path, new: Path) -> None:
    hub.inject(Fault(ROUTES["commit"], wait_s=1.5))
    running = begun(push, new)
    until(lambda: len(must_show(hub).requests("/commit/main")) == 2)
    hub.put(REPO, {"figure.svg": "<svg/>"})
    assert running.outcome()["is_new"]
    found = must_show(hub)
    assert len(found.titles) == 4
    assert found.files.keys() == {*hashes(new), "figure.svg"}


def test_who_publishes_second_is_told_by_whom_and_what(
    hub: HubProcess, push: Pusher, old: Path, new: Path, tmp_path: Path
) -> None:
    hub.inject(Fault(ROUTES["commit"], wait_s=2.5))
    running = begun(push, new)
    until(lambda: len(must_show(hub).requests("/commit/main")) == 2)
    other = write_publication(tmp_path / "other", title="other")
    theirs = push(other)
    failed = running.outcome()
    assert (failed["error"], failed["code"]) == ("NetworkError", 6)
    assert f"commit {theirs['commit'][:12]} (Publish 20 of 40 rows with curate 0) by me changed README.md, " in failed["message"]
    assert must_show(hub).files == hashes(other)
    assert push(new)["is_new"]
    require_one_new_commit(hub, new, commits=3)


def test_a_repository_that_becomes_public_meanwhile_gets_no_closed_rows(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p", source={"is_private": True})
    push(folder)
    newer = write_publication(tmp_path / "q", title="newer", source={"is_private": True})
    hub.inject(Fault(ROUTES["commit"], wait_s=1.5, status=503))
    running = begun(push, newer)
    until(lambda: len(must_show(hub).requests("/commit/main")) == 2)
    hub.publish(REPO)
    assert "is public, and rows.jsonl is private" in running.outcome()["message"]
    assert must_show(hub).files == hashes(folder)


@pytest.mark.parametrize("is_first", [True, False])
def test_two_pushes_of_the_same_at_once_make_one_commit(
    hub: HubProcess, push: Pusher, tmp_path: Path, new: Path, is_first: bool
) -> None:
    if not is_first:
        push(write_publication(tmp_path / "old", title="old"))
    hub.set(wait_s=0.05)
    both = [begun(push, new), begun(push, new)]
    done = [one.outcome() for one in both]
    assert all("error" not in one for one in done), done
    assert len({one["commit"] for one in done}) == 1
    require_one_new_commit(hub, new, commits=1 if is_first else 2)


def test_two_different_pushes_at_once_leave_one_of_them_whole(
    hub: HubProcess, push: Pusher, old: Path, new: Path, tmp_path: Path
) -> None:
    other = write_publication(tmp_path / "other", title="other")
    hub.set(wait_s=0.05)
    both = [begun(push, new), begun(push, other)]
    done = [one.outcome() for one in both]
    assert [one for one in done if one.get("is_new")]
    found = must_show(hub)
    assert found.files in (hashes(new), hashes(other))
    assert len(found.titles) == 2 + len([one for one in done if one.get("is_new")])
    for one, folder in zip(done, (new, other), strict=True):
        if "error" in one:
            assert "run the command again to replace it" in one["message"]
            assert push(folder)["is_new"]


# Kills


def some_publications(folder: Path, count: int) -> list[Path]:
    return [write_publication(folder / f"p{n}", title=f"p{n}", parts=1 + n % 3) for n in range(count)]


def test_killed_anywhere_the_next_run_ends_with_one_new_commit(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    kill_at_random(hub, push, some_publications(tmp_path, 4), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"files_per_commit": 2}], ids=["one commit", "staged"])
def test_killed_at_twenty_moments_the_next_run_ends_with_one_new_commit(
    hub: HubProcess, push: Pusher, tmp_path: Path, options: dict[str, Any]
) -> None:
    kill_at_random(hub, push, some_publications(tmp_path, 21), seed=2, **options)


@pytest.mark.parametrize("commits", [1, 3])
def test_a_killed_staging_is_gone_on_with(hub: HubProcess, push: Pusher, old: Path, new: Path, commits: int) -> None:
    hub.inject(Fault("POST .*/commit/", skip=commits, wait_s=30))
    running = begun(push, new, files_per_commit=2)
    until(lambda: hub.pending() == 0)
    running.kill()
    assert must_show(hub).files == hashes(old)
    assert len(must_show(hub).branches) == 2
    sent = len([entry for entry in must_show(hub).log if entry["method"] == "PUT"])
    assert push(new, files_per_commit=2)["is_new"]
    found = require_one_new_commit(hub, new, commits=2)
    assert found.branches == ["main"]
    # What lies on the branch was not sent again.
    assert len([entry for entry in found.log if entry["method"] == "PUT"]) - sent <= 7 - 2 * commits


def test_a_staging_left_behind_by_another_publication_is_removed(
    hub: HubProcess, push: Pusher, old: Path, new: Path, tmp_path: Path
) -> None:
    hub.inject(Fault("POST .*/commit/main", times=99, status=403))
    assert push(new, files_per_commit=2)["error"] == "NetworkError"
    assert len(must_show(hub).branches) == 2
    hub.inject()
    newer = write_publication(tmp_path / "newer", title="newer")
    assert push(newer)["is_new"]
    assert must_show(hub).branches == ["main"]


@pytest.mark.parametrize("fault", ["500 twice", "dropped before", "dropped after"])
def test_a_staged_push_survives_what_passes(hub: HubProcess, push: Pusher, old: Path, new: Path, fault: str) -> None:
    named = PASSING[fault].__dict__
    routes = ["POST .*/commit/curate-staging-", "POST .*/commit/main", "POST .*/branch/", "DELETE .*/branch/"]
    hub.inject(*(Fault(**{**named, "route": route}) for route in routes))
    done = push(new, files_per_commit=2)
    assert done.get("is_new"), done
    assert hub.pending() == 0
    assert require_one_new_commit(hub, new, commits=2).branches == ["main"]


# Secrets

LOUD = json.dumps({"error": f"bad token {TOKEN} for https://user:pass@host/x?X-Amz-Signature=sig"})


@pytest.mark.parametrize(
    "faults",
    [
        [],
        *([Fault(route, times=99, status=status, body=LOUD)] for route in ROUTES.values() for status in (401, 500)),
        pytest.param([Fault("PUT /lfs/", times=99, drop="before")], marks=pytest.mark.slow, id="never sent"),
    ],
    ids=lambda faults: f"{faults[0].route} {faults[0].status}" if faults else "none",
)
def test_the_token_is_nowhere_to_be_seen(hub: HubProcess, push: Pusher, tmp_path: Path, faults: list[Fault]) -> None:
    folder = write_publication(tmp_path / "p")
    hub.inject(*faults)
    done = push(folder, tag="v1", patience={"tries": 2})
    # A failed verification may end well: the client does not ask for it again when the bytes are there.
    assert ("error" in done) is bool(faults) or faults[0].route == ROUTES["verify"]
    for secret in (TOKEN, "pass@", "signature", "X-Amz-Signature"):
        assert secret not in str(done)


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_file_and_no_line_of_a_process_holds_the_token(hub: HubProcess, push: Pusher, tmp_path: Path, debug: str) -> None:
    folder = write_publication(tmp_path / "p")
    hub.inject(
        Fault(ROUTES["create"], status=500, body=LOUD),
        Fault(ROUTES["upload"], drop="before"),
        Fault(ROUTES["commit"], status=403, body=LOUD),
    )
    running = push.begin(folder, env={"HF_DEBUG": debug} if debug else {})
    arguments = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    done = running.outcome()
    assert done["error"] == "NetworkError"
    written = [done["written"].encode(), arguments]
    written += [path.read_bytes() for root in (push.home, tmp_path) for path in root.rglob("*") if path.is_file()]
    assert not [text for text in written if TOKEN.encode() in text]
