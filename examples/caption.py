"""Caption images with Transformers alone: a checkpoint needs this package for training, but not for use.

python examples/caption.py runs/demo picture.png another.jpg --prompt "a picture of"
"""

import argparse

from transformers import pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--prompt", default="a picture of")
    args = parser.parse_args()

    captioner = pipeline("image-to-text", args.checkpoint, trust_remote_code=True)
    for image, output in zip(args.images, captioner(args.images, prompt=args.prompt), strict=True):
        print(f"{image}: {output[0]['generated_text']}")


if __name__ == "__main__":
    main()
