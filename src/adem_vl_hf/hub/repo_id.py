"""Checks the name of a repository before anything is made for it."""

import re

# as huggingface_hub.utils.validate_repo_id has it, whose messages name arguments of other functions
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")


def check_repo_id(repo_id: str) -> None:
    """Refuse what can be no name of a repository.

    Args:
        repo_id (str): ``owner/name``, or ``name`` alone, to which the Hub adds the owner of the token.

    Raises:
        ValueError: It is none.
    """
    parts = repo_id.split("/")
    if len(parts) > 2 or len(repo_id) > 96 or repo_id.endswith(".git") or not all(map(NAME.fullmatch, parts)):
        raise ValueError(
            f"{repo_id[:200]!r} can be no repository of the Hub: give you/name, each of letters, digits, '-', '_' and "
            "'.', together at most 96 characters, with no '--' or '..' and neither '-' nor '.' at an end"
        )
