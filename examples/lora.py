"""Train LoRA in the language model together with the adapter, on your images. One checkpoint holds both.

    python examples/lora.py pictures/ --output-dir runs/lora --merged-dir runs/merged

`pictures/` holds images and a `metadata.jsonl` with lines such as {"file_name": "0001.png", "text": "two dogs"}. Needs
PEFT: pip install 'adem-vl-hf[peft]'.
"""

import argparse

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import ImageFolder
from adem_vl_hf.loading import build_model
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images and their metadata.jsonl")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--merged-dir", help="also save a model whose language model has LoRA merged into it")
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded-dinov2")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--target-modules", nargs="+", default=["q_proj", "v_proj"])
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()

    keep_freed_memory()  # faster on a CPU
    dataset = ImageFolder(args.folder)
    lora = {"r": args.rank, "lora_alpha": 2 * args.rank, "target_modules": args.target_modules}
    model, processor = build_model(args.language_model, args.vision_tower, lora=lora, **fastest_setting())
    arguments = training_arguments(args.output_dir, len(dataset), args.batch_size, args.epochs, model=model)
    facts = train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    in_lora = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    print(f"{facts['trained_numbers']:,} parameters trained, {in_lora:,} of them LoRA, saved in {args.output_dir}")
    if args.merged_dir:
        model.merge_and_unload().save_pretrained(args.merged_dir)
        processor.save_pretrained(args.merged_dir)
        print(f"LoRA merged and every weight saved in {args.merged_dir}")


if __name__ == "__main__":
    main()
