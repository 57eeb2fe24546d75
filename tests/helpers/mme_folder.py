"""MME in its official layout."""

from pathlib import Path

from PIL import Image


def write(folder: Path) -> Path:
    """Write two sub-tasks in the official layout, one in each of its two forms."""
    folder = folder / "MME_Benchmark_release_version"
    for below, texts, suffix in (("existence", "", ".jpg"), ("landmark/images", "../questions_answers_YN", ".png")):
        pictures = folder / below
        pictures.mkdir(parents=True)
        (pictures / texts).mkdir(exist_ok=True)
        for name in ("b", "a"):
            Image.new("RGB", (4, 4)).save(pictures / f"{name}{suffix}")
            lines = f"Is it {name}? Please answer yes or no.\tYes\nIs it c? Please answer yes or no.\tNo\n"
            (pictures / texts / f"{name}.txt").write_text(lines)
    return folder
