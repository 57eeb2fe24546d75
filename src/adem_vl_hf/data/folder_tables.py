"""Finds the tables in a folder of images: those that are read with it, and those that the user has to name."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL.Image import registered_extensions

from .cells import IMAGE_NAME
from .dataset_names import format_of
from .separators import read_cells

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# all keys of what COCO and VQA v2 publish
PUBLISHED = {
    "info", "license", "licenses", "images", "annotations", "categories", "type", "questions", "task_type", "data_type",
    "data_subtype",
}  # fmt: skip
BENCHMARKS = (  # the keys that tell them apart, and what is read instead
    ({"annotations", "images"}, "COCO's annotations", "Karpathy's dataset_coco.json in the folder of the images"),
    ({"questions", "info"}, "VQA's questions without their answers", ""),
    ({"annotations", "info"}, "VQA's answers without their questions", ""),
)


def lists_images(table: Path) -> bool:
    """Tell whether the first row of the metadata of a folder names an image as its ``file_name``, and not a video.

    Args:
        table (Path): The file, whose name is one of ``METADATA``.
    """
    try:
        name = _first_row(table).get("file_name")
    except Exception:  # whatever is wrong with it is said when all of it is read
        return True
    return isinstance(name, str) and Path(name).suffix.lower() in registered_extensions()


def _first_row(table: Path) -> Mapping[str, Any]:
    if table.suffix == ".csv":
        return next(read_cells(table), {})
    if table.suffix == ".jsonl":
        with table.open(encoding="utf-8-sig") as file:
            return dict(json.loads(next(line for line in file if line.strip())))
    from pyarrow.parquet import ParquetFile

    batch = next(ParquetFile(table).iter_batches(1, columns=["file_name"]))
    return dict(batch.to_pylist()[0])


def check_columns(path: Path, names: Iterable[str], columns: Mapping[str, str]) -> None:
    """Refuse rows that are only images, and the files of COCO and VQA, whose rows lie inside a single one.

    Args:
        path (Path): The folder or the file, or the id of a data set on the Hub.
        names (Iterable[str]): The names of the columns.
        columns (Mapping[str, str]): The names of columns that the user gave.

    Raises:
        ValueError: They are. The message says what to give instead.
    """
    found = set(names)
    for keys, what, instead in BENCHMARKS:
        if keys <= found <= PUBLISHED and not columns:
            remedy = instead or "a table with the columns image, question and answer"
            raise ValueError(f"{path}: {what}, which are not read as they are; give {remedy}")
    if not path.is_dir() or found != {"image"}:
        return
    files = sorted(file for file in path.rglob("*") if file.is_file())
    tables = [file for file in files if format_of(file) not in (None, "webdataset")]
    places = list(dict.fromkeys(file.parent for file in files if IMAGE_NAME.fullmatch(file.name))) or [path]
    if tables:
        raise ValueError(
            f"{path}: its images were read, but not the table {tables[0].relative_to(path)} among them; give the table "
            f"(--data {tables[0]} --image-folder {places[0]})"
        )
    one = f" (one folder alone, {places[0].name!r}, is no class)" if len(places) == 1 and places[0] != path else ""
    raise ValueError(
        f"{path}: images without a text to train on{one}; write a file metadata.jsonl with one line "
        '{"file_name": ..., "text": ...} per image, or sort them into one folder per class'
    )
