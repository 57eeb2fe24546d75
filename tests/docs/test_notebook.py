"""The notebook of the examples runs from its first cell to its last."""

import nbformat
import pytest
import scripts
from nbclient import NotebookClient

NOTEBOOK = scripts.ROOT / "examples" / "your_data.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """With few steps: nobody waits minutes for a test."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    (training,) = [cell for cell in notebook.cells if cell.source.startswith("STEPS = 150")]
    training.source = training.source.replace("STEPS = 150", "STEPS = 3")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    printed = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert "trainable parameters" in str(printed)
    assert " of 12 right" in str(printed)
    assert "generated_text" in str(printed[-1])


def test_the_notebook_is_saved_without_output():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert "examples/your_data.ipynb" in (scripts.ROOT / "docs" / "your_data.md").read_text(encoding="utf-8")
