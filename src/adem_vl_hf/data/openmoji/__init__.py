"""Data sets drawn on demand from OpenMoji pictograms: names, scenes, videos and pairs of images."""
