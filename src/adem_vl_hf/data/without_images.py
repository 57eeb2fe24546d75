"""Reads the samples of a table without the bytes of their images, so that all its texts are checked in seconds."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..modeling.reading import errors_naming
from .library import LibraryDataset
from .sample import Sample

AT_ONCE = 1000  # rows
KEPT = 64  # bytes of an image, by which its format is known


def samples_without_images(dataset: LibraryDataset) -> Iterator[Sample]:
    """Make each sample of a data set, with the first bytes alone of images that the rows hold.

    Args:
        dataset (LibraryDataset): The data set. It is read from its beginning to its end.

    Yields:
        Sample: The sample, whose images cannot be opened.

    Raises:
        ValueError: A row cannot be used. The message names the data set and the row.
    """
    import pyarrow

    tables = dataset.rows.with_format("arrow")
    for start in range(0, len(tables), AT_ONCE):
        with errors_naming(dataset.name):
            table = tables[start : start + AT_ONCE]
            columns = [
                pyarrow.chunked_array([_shortened(chunk) for chunk in column.chunks], column.type)
                for column in table.columns
            ]
            rows = pyarrow.table(columns, names=table.column_names).to_pylist()
        for position, row in enumerate(rows, start):
            with errors_naming(dataset.name):
                row = dataset.rows.features.decode_example(row)
            yield dataset.make_sample(row, position)


def _holds_bytes(kind: Any) -> bool:
    """Tell whether a type has bytes in it, however deep."""
    import pyarrow.types as types

    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    return types.is_nested(kind) and any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _shortened(array: Any) -> Any:
    """Cut the bytes in an array. Of a file that is mapped into memory, the rest is never read."""
    import pyarrow
    import pyarrow.compute as compute
    import pyarrow.types as types

    kind = array.type
    if not _holds_bytes(kind):
        return array
    if types.is_binary(kind) or types.is_large_binary(kind):
        return compute.binary_slice(array, 0, KEPT)
    if types.is_struct(kind):
        parts = [_shortened(part) for part in array.flatten()]
        fields = [kind.field(place) for place in range(kind.num_fields)]
        return pyarrow.StructArray.from_arrays(parts, fields=fields, mask=array.is_null())
    if types.is_list(kind) or types.is_large_list(kind):
        lengths = compute.fill_null(compute.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        ends = np.concatenate([[0], np.cumsum(lengths)])
        missing = np.append(array.is_null().to_numpy(zero_copy_only=False), False)
        width = pyarrow.int32() if types.is_list(kind) else pyarrow.int64()
        return type(array).from_arrays(pyarrow.array(ends, width, mask=missing), _shortened(array.flatten()), type=kind)
    return array  # of another type, whose bytes are read
