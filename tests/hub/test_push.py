"""Pushing to a Hub that works: what is sent, what is left alone, what is refused, and that the usual readers read it."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import HubProcess
from hub_publications import REPO, Pusher, environment, hashes, must_show, shown, write_publication

from curate.errors import CurateError, IntegrityError, UsageError
from curate.hub import push as push_here
from curate.hub.content import content_of, is_ours


def bundle_of(folder: Path) -> Any:
    """The folder as a bundle, without the checks of `load_bundle`."""
    facts = json.loads((folder / "curate" / "publication.json").read_text())
    return SimpleNamespace(folder=folder, facts=facts, files=[*facts["files"], "README.md", "curate/publication.json"])


# What is sent


def test_a_first_push_creates_a_private_repository_with_one_commit_of_exactly_these_files(
    hub: HubProcess, push: Pusher, tmp_path: Path
) -> None:
    folder = write_publication(tmp_path / "p")
    done = push(folder)
    found = must_show(hub)
    assert (found.private, found.files) == (True, hashes(folder))
    assert found.titles == ["Publish 20 of 40 rows with curate 0", "initial commit"]
    assert (done["commit"], done["is_new"], done["url"]) == (found.sha, True, f"{hub.url}/datasets/{REPO}")
    assert done["files"] == {name: (folder / name).stat().st_size for name in hashes(folder)}
    assert done["bytes_sent"] == sum(done["files"].values())
    assert "creating a private repository" in done["notes"]
    assert f"pushing to {hub.url}, as HF_ENDPOINT says" in done["notes"]


def test_a_push_of_what_is_there_makes_no_commit_and_sends_nothing(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    first = push(folder)
    before = must_show(hub)
    again = push(folder)
    after = must_show(hub)
    assert (again["commit"], again["is_new"], again["bytes_sent"]) == (first["commit"], False, 0)
    assert after.titles == before.titles
    assert {entry["method"] for entry in after.log[len(before.log) :]} == {"GET"}


def test_a_new_publication_replaces_and_deletes_what_was_ours_and_leaves_the_rest(
    hub: HubProcess, push: Pusher, tmp_path: Path
) -> None:
    push(write_publication(tmp_path / "old", title="old", parts=3))
    hub.put(REPO, {"figure.svg": "<svg/>", "LICENSE": "MIT", "data/notes.txt": "mine", "curate/mine.txt": "mine"})
    new = write_publication(tmp_path / "new", title="new", parts=2)
    done = push(new)
    found = must_show(hub)
    foreign = {"figure.svg", "LICENSE", "data/notes.txt", "curate/mine.txt"}
    assert {path: digest for path, digest in found.files.items() if path not in foreign} == hashes(new)
    assert foreign < found.files.keys()
    assert done["deleted"] == [f"{kind}/train-{part:05d}-of-00003.parquet" for kind in ("data", "scores") for part in range(3)]
    assert len(found.titles) == 4


def test_the_usual_readers_read_it(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    push(write_publication(tmp_path / "p", rows=60, parts=2))
    code = f"""
import json
from datasets import load_dataset
whole, split = load_dataset("{REPO}"), load_dataset("{REPO}", split="train")
stream = load_dataset("{REPO}", split="train", streaming=True)
scores = load_dataset("{REPO}", "scores", split="train")
print(json.dumps([list(whole), split.num_rows, split[29], list(stream) == list(split), scores.num_rows, scores[59]]))
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(hub, home), cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    scored = {"row": 59, "kept": False, "length_words": 59 / 7}
    assert json.loads(done.stdout) == [["train"], 30, {"prompt": "first: 29?", "completion": "29."}, True, 60, scored]


def test_large_files_go_up_in_parts_and_long_listings_are_read_to_their_end(
    hub: HubProcess, push: Pusher, tmp_path: Path
) -> None:
    hub.set(part_bytes=400, page_entries=2)
    folder = write_publication(tmp_path / "p", parts=3)
    assert push(folder)["is_new"]
    assert must_show(hub).files == hashes(folder)
    assert must_show(hub).requests("/lfs-part/")
    assert not push(folder)["is_new"]


def test_a_dry_run_sends_no_request_and_says_what_would_be_sent(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    done = push(folder, dry_run=True, tag="v1")
    assert (done["commit"], done["is_new"], done["files"].keys()) == (None, False, hashes(folder).keys())
    assert hub.state() == {"repos": {}, "log": []}


def test_another_branch_is_begun_from_main_and_main_stays(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    push(write_publication(tmp_path / "a", title="a"))
    before = must_show(hub)
    push(write_publication(tmp_path / "b", title="b"), revision="next/v2")
    after = must_show(hub)
    assert after.sha == before.sha
    heads = hub.state()["repos"][REPO]["heads"]["next/v2"]
    assert {path: digest for path, digest in heads.items() if path != ".gitattributes"} == hashes(tmp_path / "b")


# Staging


def test_more_files_than_a_commit_holds_are_staged_and_appear_in_one_commit(
    hub: HubProcess, push: Pusher, tmp_path: Path
) -> None:
    folder = write_publication(tmp_path / "p", parts=5)
    done = push(folder, files_per_commit=3)
    found = must_show(hub)
    assert found.files == hashes(folder)
    assert (len(found.titles), found.branches) == (2, ["main"])
    staged = [entry for entry in found.requests("/commit/curate-staging-") if entry["status"] == 200]
    assert len(staged) == 4
    assert done["is_new"]
    # Ten files of rows and the ledger, each once.
    assert len([entry for entry in found.log if entry["method"] == "PUT"]) == 11


def test_staging_branches_of_others_are_removed_when_a_push_has_succeeded(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    push(folder)
    hub.branch(REPO, "curate-staging-0123456789abcdef")
    hub.branch(REPO, "mine")
    push(folder)
    assert must_show(hub).branches == ["main", "mine"]


# Tags


def test_a_tag_names_the_commit_and_never_moves(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    first = push(write_publication(tmp_path / "a", title="a"), tag="v1")
    assert push(tmp_path / "a", tag="v1")["is_new"] is False
    before = must_show(hub)
    assert before.tags == {"v1": first["commit"]}
    refused = push(write_publication(tmp_path / "b", title="b"), tag="v1")
    assert refused["error"] == "UsageError"
    assert "tag v1 is already on commit" in refused["message"]
    after = must_show(hub)
    assert (after.sha, after.tags) == (before.sha, before.tags)
    assert push(tmp_path / "b", tag="v2")["is_new"]
    assert must_show(hub).tags.keys() == {"v1", "v2"}


def test_a_tag_can_be_put_on_what_was_pushed_before(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    first = push(write_publication(tmp_path / "a"))
    assert push(tmp_path / "a", tag="v1.0")["is_new"] is False
    assert must_show(hub).tags == {"v1.0": first["commit"]}


# Visibility


@pytest.mark.parametrize(("there", "asked"), [(True, False), (False, True)])
def test_the_visibility_of_a_repository_is_never_changed(
    hub: HubProcess, push: Pusher, tmp_path: Path, there: bool, asked: bool
) -> None:
    hub.create(REPO, private=there)
    refused = push(write_publication(tmp_path / "p"), private=asked)
    assert refused["error"] == "UsageError"
    assert "a push never changes visibility" in refused["message"]
    found = must_show(hub)
    assert (found.private, found.files) == (there, {})


@pytest.mark.parametrize("private", [True, False])
def test_without_being_told_a_push_takes_the_repository_as_it_is(
    hub: HubProcess, push: Pusher, tmp_path: Path, private: bool
) -> None:
    hub.create(REPO, private=private)
    assert push(write_publication(tmp_path / "p"))["is_new"]
    assert must_show(hub).private is private


def test_a_public_repository_is_created_only_when_asked_for(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    assert push(write_publication(tmp_path / "p"), private=False)["is_new"]
    assert must_show(hub).private is False


def test_a_repository_that_comes_out_public_gets_no_rows(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    hub.set(creates_as=False)
    assert "is public, and private was asked for" in push(write_publication(tmp_path / "p"))["message"]
    assert must_show(hub).files == {}


CLOSED: list[tuple[dict[str, Any], str]] = [
    ({"source": {"is_private": True}}, "is private"),
    ({"source": {"is_gated": True}}, "is gated"),
    ({"license": "cc-by-nd-4.0"}, "forbids to publish"),
    ({"stated": {"license": "mit", "private_source": True}}, "the source is private"),
]


@pytest.mark.parametrize(("facts", "words"), CLOSED)
def test_rows_that_not_everybody_may_have_become_public_only_when_told(
    hub: HubProcess, push: Pusher, tmp_path: Path, facts: dict[str, Any], words: str
) -> None:
    folder = write_publication(tmp_path / "p", **facts)
    refused = push(folder, private=False)
    assert (refused["error"], shown(hub)) == ("InputError", None)
    assert words in refused["message"]
    hub.create(REPO, private=False)
    assert words in push(folder)["message"]
    assert must_show(hub).files == {}
    told = {"license": "mit", "stated": {"license": "mit", "private_source": False}, "source": facts.get("source", {})}
    assert push(write_publication(tmp_path / "told", **told))["is_new"]


def test_such_rows_may_go_into_a_private_repository(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    assert push(write_publication(tmp_path / "p", source={"is_private": True}))["is_new"]


# Other people's data


def test_rows_that_curate_did_not_publish_are_neither_replaced_nor_mixed_with(
    hub: HubProcess, push: Pusher, tmp_path: Path
) -> None:
    hub.create(REPO)
    hub.put(REPO, {"data/train-00000-of-00001.parquet": "somebody's", "README.md": "somebody's"})
    refused = push(write_publication(tmp_path / "p"))
    assert refused["error"] == "UsageError"
    assert "holds data/train-00000-of-00001.parquet, which curate did not publish" in refused["message"]
    assert len(must_show(hub).titles) == 2


def test_a_card_edited_by_hand_is_replaced_and_said_so(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    push(write_publication(tmp_path / "a", title="a"))
    edit = hub.put(REPO, {"README.md": "better words"})
    done = push(write_publication(tmp_path / "b", title="b"))
    assert f"README.md changed since the last publication; replaced now, and kept in commit {edit[:12]}" in done["notes"]
    assert must_show(hub).files == hashes(tmp_path / "b")


def test_a_gitignore_that_would_drop_files_is_refused(hub: HubProcess, push: Pusher, tmp_path: Path) -> None:
    hub.set(ignored=["curate/lock.json"])
    refused = push(write_publication(tmp_path / "p"))
    assert "its .gitignore leaves out curate/lock.json" in refused["message"]
    assert must_show(hub).files == {}


# What is refused before anything is sent


@pytest.mark.parametrize(
    "repo", ["name", "a/b/c", "../x", "me/", "me/a b", "me/x.git", "hf://models/me/x", "me/--x", "https://me/x"]
)
def test_names_that_are_none_are_refused_here(tmp_path: Path, repo: str) -> None:
    folder = write_publication(tmp_path / "p")
    with pytest.raises(UsageError, match="USER/NAME"):
        push_here(bundle_of(folder), repo, dry_run=True)


@pytest.mark.parametrize("repo", ["me/x", "datasets/me/x", "hf://datasets/me/x"])
def test_names_are_understood_in_the_usual_ways(tmp_path: Path, repo: str) -> None:
    assert push_here(bundle_of(write_publication(tmp_path / "p")), repo, dry_run=True).repo == "me/x"


@pytest.mark.parametrize("tag", ["", "-x", "a b", "../x", "x..y", "a/b", "x.lock", "v1.", "x" * 101, "ä\n"])
def test_tags_that_are_none_are_refused_here(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="no name for a tag"):
        push_here(bundle_of(write_publication(tmp_path / "p")), "me/x", tag=tag, dry_run=True)


@pytest.mark.parametrize(
    "path", [".env", "data/../../x.parquet", "/etc/passwd", "curate/run.log", "data/a/b.parquet", "README.md\n"]
)
def test_nothing_but_files_of_a_publication_is_sent(tmp_path: Path, path: str) -> None:
    bundle = bundle_of(write_publication(tmp_path / "p"))
    bundle.files.append(path)
    assert not is_ours(path)
    with pytest.raises(UsageError, match="is no file of a publication"):
        content_of(bundle)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    bundle = bundle_of(write_publication(tmp_path / "p"))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (bundle.folder / "README.md").unlink()
    (bundle.folder / "README.md").symlink_to(secret)
    with pytest.raises(UsageError, match="is a link or no file"):
        content_of(bundle)


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    bundle = bundle_of(write_publication(tmp_path / "p"))
    (bundle.folder / "data").rename(tmp_path / "data")
    (bundle.folder / "data").symlink_to(tmp_path / "data")
    with pytest.raises(UsageError, match="is a link or no file"):
        content_of(bundle)


def change_lock(folder: Path) -> None:
    (folder / "curate" / "lock.json").write_text("{}")


def remove_ledger(folder: Path) -> None:
    (folder / "curate" / "ledger.parquet").unlink()


def break_facts(folder: Path) -> None:
    (folder / "curate" / "publication.json").write_text("{")


def change_facts(folder: Path) -> None:
    path = folder / "curate" / "publication.json"
    path.write_text(path.read_text().replace('"rows": 40', '"rows": 41'))


@pytest.mark.parametrize("damage", [change_lock, remove_ledger, break_facts, change_facts])
def test_a_folder_that_is_not_what_was_built_is_refused(tmp_path: Path, damage: Any) -> None:
    bundle = bundle_of(write_publication(tmp_path / "p"))
    damage(bundle.folder)
    with pytest.raises(IntegrityError):
        content_of(bundle)


@pytest.mark.parametrize("missing", ["README.md", "curate/publication.json", "curate/lock.json"])
def test_a_bundle_that_does_not_list_its_own_files_is_refused(tmp_path: Path, missing: str) -> None:
    bundle = bundle_of(write_publication(tmp_path / "p"))
    bundle.files.remove(missing)
    with pytest.raises(CurateError, match=missing):
        content_of(bundle)


def test_the_identity_follows_every_file(tmp_path: Path) -> None:
    folder = write_publication(tmp_path / "p")
    first = content_of(bundle_of(folder)).identity
    assert content_of(bundle_of(write_publication(tmp_path / "same"))).identity == first
    assert content_of(bundle_of(write_publication(tmp_path / "other", title="other"))).identity != first
    (folder / "README.md").write_text("other words")
    assert content_of(bundle_of(folder)).identity != first
