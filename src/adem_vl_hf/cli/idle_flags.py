"""Finds the flags that are given, and refuses those that would have no effect."""

import argparse

ALWAYS = {"command", "debug", "task", "harness", "json"}


def given_flags(args: argparse.Namespace, defaults: argparse.Namespace) -> set[str]:
    """Name the flags that are given with another value than their default, but for those that always have an effect.

    Args:
        args (argparse.Namespace): The parsed arguments.
        defaults (argparse.Namespace): The values of all flags that are not given.

    Returns:
        The names of the flags, as the arguments have them.
    """
    return {name for name, value in vars(args).items() if value != getattr(defaults, name, value)} - ALWAYS


def refuse_flags(names: set[str], args: argparse.Namespace, why: str) -> None:
    """Refuse the first of some flags, if there is one.

    Args:
        names (set[str]): The names of the flags, as the arguments have them.
        args (argparse.Namespace): The parsed arguments.
        why (str): What the message says of the flag.

    Raises:
        ValueError: There is one. The message names it.
    """
    for name in sorted(names):
        flag = f"--load-in-{args.bits}bit" if name == "bits" else f"--{name.replace('_', '-')}"
        raise ValueError(f"{flag} {why}; leave it out")
