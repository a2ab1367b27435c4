"""A Hub and a process that pushes to it, started once for the tests of pushing; the Hub is emptied before each test."""

from collections.abc import Iterator

import pytest
from fake_hub import HubProcess
from hub_publications import TOKEN, Pusher


@pytest.fixture(scope="session")
def _hub() -> Iterator[HubProcess]:
    hub = HubProcess()
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def _pusher(_hub: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pusher]:
    pusher = Pusher(_hub, tmp_path_factory.mktemp("home"))
    yield pusher
    pusher.close()


@pytest.fixture
def hub(_hub: HubProcess) -> HubProcess:
    """An empty Hub that knows one token, which may write."""
    _hub.reset()
    _hub.set(tokens={TOKEN: "write", "hf_reads": "read"})
    return _hub


@pytest.fixture
def push(hub: HubProcess, _pusher: Pusher) -> Pusher:
    """Pushes folders to that Hub."""
    return _pusher
