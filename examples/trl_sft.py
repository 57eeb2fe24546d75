"""Fine-tune on conversations about images with TRL's SFTTrainer: the adapter and, with --rank, LoRA.

    python examples/trl_sft.py pictures/ --output-dir runs/sft --rank 8

`pictures/` holds images and a `metadata.jsonl` with lines such as {"file_name": "0001.png", "text": "two dogs"}. Each
line becomes a conversation with the image and a question from the user, and the text from the assistant. The language
model must have a chat template. Needs TRL: pip install 'adem-vl-hf[trl]'.
"""

import argparse

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from adem_vl_hf.data import ImageFolder
from adem_vl_hf.loading import build_model
from adem_vl_hf.recipe import peak_learning_rate
from adem_vl_hf.training import fastest_setting


def conversation(sample: dict, question: str) -> dict:
    """Make a row in the format of TRL, which computes the loss on the completion alone."""
    ask = [{"type": "image"}, {"type": "text", "text": question}]
    answer = [{"type": "text", "text": sample["answer"].strip()}]
    return {
        "images": [sample["image"]],
        "prompt": [{"role": "user", "content": ask}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images and their metadata.jsonl")
    parser.add_argument("--output-dir", required=True)
    parser.add_argument("--language-model", default="embedded")
    parser.add_argument("--vision-tower", default="embedded-dinov2")
    parser.add_argument("--question", default="What is in the picture?")
    parser.add_argument("--rank", type=int, default=0, help="rank of LoRA; 0 trains the adapter alone")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="peak (default: that of adem-vl train)")
    args = parser.parse_args()

    lora = {"r": args.rank, "lora_alpha": 2 * args.rank, "target_modules": ["q_proj", "v_proj"]} if args.rank else None
    model, processor = build_model(args.language_model, args.vision_tower, lora=lora, **fastest_setting())
    folder = ImageFolder(args.folder)
    dataset = Dataset.from_list([conversation(folder[index], args.question) for index in range(len(folder))])
    arguments = SFTConfig(
        args.output_dir,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate or peak_learning_rate(model.config),
        bf16=torch.cuda.is_available(),
        max_length=None,  # never cut a row, because that could remove the place of its image
        logging_steps=1,
        report_to="none",
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=processor)
    trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps, saved in {args.output_dir}")


if __name__ == "__main__":
    main()
