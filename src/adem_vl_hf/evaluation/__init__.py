"""Predictions, scores and controls."""
