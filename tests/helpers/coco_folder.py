"""COCO captions in Karpathy's layout, four images of it."""

import json

from PIL import Image


def entry(cocoid, split, *captions, folder="val2014"):
    sentences = [{"raw": caption, "sentid": number} for number, caption in enumerate(captions)]
    return {"cocoid": cocoid, "split": split, "filepath": folder, "filename": f"{cocoid}.jpg", "sentences": sentences}


ENTRIES = [
    entry(1, "test", "A dog (brown).", "One dog"),
    entry(2, "train", "Two cats; asleep.", "Cats!", folder="train2014"),
    entry(3, "restval", "A *bus*"),
    entry(4, "val", "A bird"),
]


def write(folder, entries, pictures="images"):
    for one in entries:
        path = folder / pictures / one["filepath"] / one["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), "red").save(path)
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return folder
