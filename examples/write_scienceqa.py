"""Write OpenMoji's four-way choice questions in ScienceQA's own file format (problems.json, pid_splits.json, images).

python examples/write_scienceqa.py --output-dir runs/openmoji-scienceqa --train 1000 --test 500
adem-vl train --data runs/openmoji-scienceqa --output-dir runs/sqa
"""

import argparse
from pathlib import Path

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.scienceqa import write_scienceqa


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--test", type=int, default=500)
    args = parser.parse_args(argv)
    for split, size in (("train", args.train), ("test", args.test)):
        scenes = OpenMojiScenes(split, size=size, kinds=("choice",))
        samples = (scenes[i] for i in range(len(scenes)))
        write_scienceqa(samples, args.output_dir, split, question="Which of these is in the picture?")
        print(f"{split}: {size} questions in {args.output_dir}")


if __name__ == "__main__":
    main()
