"""Rewrite every table of README.md and of the pages in docs/ from the result files. Nothing is measured.

python benchmarks/write_tables.py
"""

import argparse

import alternatives
import at_a_glance
import compare
import compiled
import data_wait
import defaults
import easy_vqa
import efficiency
import embedded_towers
import feature_cache
import frozen_or_lora
import fusion_speed
import growth
import kept_casts
import lm_head
import localisation
import memory
import miniature
import miniature_cost
import moving
import quality
import rates
import scaling
import scene_probe
import serving
import tables
import tower_styles
import turns
import unseen_styles
import where_it_looks
import which_is_where

SCRIPTS = (
    alternatives,
    at_a_glance,
    compare,
    compiled,
    data_wait,
    defaults,
    easy_vqa,
    efficiency,
    embedded_towers,
    feature_cache,
    frozen_or_lora,
    fusion_speed,
    growth,
    kept_casts,
    lm_head,
    localisation,
    memory,
    miniature,
    miniature_cost,
    moving,
    quality,
    rates,
    scaling,
    scene_probe,
    serving,
    tower_styles,
    turns,
    unseen_styles,
    which_is_where,
    where_it_looks,
)


def sections() -> dict[str, str]:
    """The text of every generated section of the pages.

    Returns:
        The text by the name of the section. Where nothing has been measured, the text says so.
    """
    return {name: text for script in SCRIPTS for name, text in script.sections().items()}


def main() -> None:
    """Run the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tables.write_sections(sections())


if __name__ == "__main__":
    main()
