"""Checks the name of a repository before anything is made for it."""


def check_repo_id(repo_id: str) -> None:
    """Refuse what can be no name of a repository.

    Args:
        repo_id (str): ``owner/name``, or ``name`` alone, to which the Hub adds the owner of the token.

    Raises:
        ValueError: It is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:  # its messages name arguments of other functions
        raise ValueError(
            f"{repo_id[:200]!r} can be no repository of the Hub: give you/name, each of letters, digits, '-', '_' and "
            "'.', together at most 96 characters, with no '--' or '..' and neither '-' nor '.' at an end"
        ) from error
