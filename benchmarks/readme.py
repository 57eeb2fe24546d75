"""Rewrite the tables of README.md that come out of these scripts, from their result files.

python benchmarks/readme.py
"""

import argparse

import compare
import compiled
import efficiency
import fusion_speed
import growth
import miniature
import miniature_cost
import moving
import tables

SCRIPTS = (compare, compiled, efficiency, fusion_speed, growth, miniature, miniature_cost, moving)


def sections() -> dict[str, str]:
    """The body of every section by its name; empty where nothing was measured."""
    return {name: body for script in SCRIPTS for name, body in script.sections().items()}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tables.write_readme(sections())


if __name__ == "__main__":
    main()
