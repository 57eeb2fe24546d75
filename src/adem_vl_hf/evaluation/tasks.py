"""The names of the tasks that ``score`` and ``adem-vl evaluate`` know."""

TASKS = (
    "caption",
    "questions",
    "openmoji-names",
    "openmoji-scenes",
    "openmoji-videos",
    "openmoji-pairs",
    "easy-vqa",
    "scienceqa",
    "coco-caption",
    "mme",
)
