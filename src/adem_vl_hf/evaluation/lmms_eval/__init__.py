"""The models of this package inside the harness lmms-eval."""
