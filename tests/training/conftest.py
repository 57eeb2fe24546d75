"""What the tests of the fields of ``TrainingArguments`` compare with."""

import pytest


@pytest.fixture(scope="module")
def plain(bases, arch, tmp_path_factory):
    """The adapter after a run of the stock ``Trainer`` with no field changed (``field_runs.stock``)."""
    import field_runs

    return field_runs.trained(field_runs.stock(bases, arch, tmp_path_factory.mktemp("plain")))
