"""Train an adapter on your images with a language model in 4 bits, then use it with the model in full precision.

    python examples/quantized.py pictures/ --output-dir runs/mine

`pictures/` holds images and a `metadata.jsonl` with lines such as {"file_name": "0001.png", "text": "two dogs"}. Both
bases are Hub ids or folders. The defaults are the small ones of this package. Needs bitsandbytes
(pip install 'adem-vl-hf[quantized]').
"""

import argparse

from adem_vl_hf.allocator import keep_freed_memory
from adem_vl_hf.data import ImageFolder
from adem_vl_hf.loading import bitsandbytes_config, build_model, load_checkpoint
from adem_vl_hf.training import build_trainer, fastest_setting, train, training_arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images and their metadata.jsonl")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded-dinov2")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()

    keep_freed_memory()  # faster on a CPU
    dataset = ImageFolder(args.folder)
    setting = fastest_setting()
    four_bits = bitsandbytes_config(4, setting["dtype"])
    model, processor = build_model(args.language_model, args.vision_tower, quantization_config=four_bits, **setting)
    print(f"language model in 4 bits: {megabytes(model)}")
    arguments = training_arguments(args.output_dir, len(dataset), args.batch_size, args.epochs, model=model)
    train(build_trainer(model, processor, dataset, arguments), processor, resume=True)
    del model

    # The checkpoint has the adapter and the name of the language model, but not the precision that it was loaded in.
    model, processor = load_checkpoint(args.output_dir)
    print(f"language model in full precision: {megabytes(model)}")
    inputs = processor(images=[dataset[0]["image"]], text=[dataset[0]["prompt"]]).to(model.device)
    ids = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    print(f"full precision, first image: {answer.strip()}")


def megabytes(model) -> str:
    """Return the size of the language model in memory."""
    return f"{model.language_model.get_memory_footprint() / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
