"""Sends a publication to the Hub: one commit, verified by reading it back. The only part that writes there.

from curate.publication import build
from curate.hub import push

push(build(out, folder), "USER/NAME")
"""

from curate.hub.pushing import Limits, Pushed, checked_repo, push, require_access, require_tag
from curate.hub.retrying import Patience

__all__ = ["Limits", "Patience", "Pushed", "checked_repo", "push", "require_access", "require_tag"]
