"""Data sets drawn from OpenMoji pictograms: names, scenes, clips and pairs of images."""
