"""Evaluation: predictions, scores, and controls that show what a model owes to the images."""
