"""Train an adapter on your images, in a page of code.

    python examples/train.py pictures/ --output-dir runs/mine
    python examples/train.py more/ --output-dir runs/more --checkpoint you/your-adapter
    accelerate launch --config_file examples/accelerate/ddp.yaml examples/train.py pictures/ --output-dir runs/mine

`pictures/` holds images and a `metadata.jsonl` with lines such as {"file_name": "0001.png", "text": "two dogs"}. Both
bases are Hub ids or folders. The defaults are the small ones of this package. A checkpoint to continue from (a Hub id
or a folder) names its own bases.
"""

import argparse

from transformers import set_seed

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import ImageFolder
from adem_vl_hf.loading import build_model, load_checkpoint
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images and their metadata.jsonl")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded-dinov2")
    parser.add_argument("--checkpoint", help="an adapter to continue from, with its own bases")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()

    keep_freed_memory()  # faster on a CPU
    dataset = ImageFolder(args.folder)
    set_seed(0)
    if args.checkpoint:
        model, processor = load_checkpoint(args.checkpoint, **fastest_setting())
    else:
        model, processor = build_model(args.language_model, args.vision_tower, **fastest_setting())
    arguments = training_arguments(args.output_dir, len(dataset), args.batch_size, args.epochs, model=model)
    trainer = build_trainer(model, processor, dataset, arguments)  # a stock Trainer with the collator of this package
    facts = train(trainer, processor, resume=True)
    if trainer.is_world_process_zero():
        print(f"{facts['trained_numbers']:,} parameters trained in {facts['seconds']} s, saved in {args.output_dir}")


if __name__ == "__main__":
    main()
