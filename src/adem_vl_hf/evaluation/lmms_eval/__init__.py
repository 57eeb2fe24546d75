"""The models of this package in the evaluation harness lmms-eval."""
