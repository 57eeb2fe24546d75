"""The command line: ``adem-vl train | caption | evaluate | convert | info``.

Exit codes: 0 done, 2 bad usage or bad input (one line on stderr), 1 anything else.
"""

import argparse
import errno
import json
import sys
from pathlib import Path
from typing import Any

from ..allocator import keep_freed_memory
from ..papers import PAPERS
from ..quiet import quiet_libraries
from .config_flags import ADEM_VL, add_config_flags

EXIT_DONE, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2
# OSErrors about a path that the user gave; None: raised by Transformers, for a folder or id without the right files.
# A full disk or a closed pipe is not among them.
BAD_PATH = (
    None, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG,
)  # fmt: skip


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _key_value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, _json_or_text(value)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _add_bases(parser: argparse.ArgumentParser, required: bool) -> None:
    for flag, embedded in (("--language-model", "SmolLM2-135M-Instruct"), ("--vision-tower", "small CLIP")):
        note = "" if required else f" (default: the embedded {embedded})"
        default = None if required else "embedded"
        parser.add_argument(flag, required=required, default=default, help="Hub id or folder" + note)
    parser.add_argument("--language-model-revision", help="commit, tag or branch of the language model")
    parser.add_argument("--vision-tower-revision", help="commit, tag or branch of the tower")


def _add_bits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for bits in (4, 8):
        group.add_argument(f"--load-in-{bits}bit", dest="bits", action="store_const", const=bits,
                           help=f"the language model in {bits} bits, by bitsandbytes")  # fmt: skip


def _add_scienceqa(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-format", default="CQM-A",
                        help="of ScienceQA: CQM or QCM, a dash, A, AL, AE, ALE, AEL, LA, EA, LEA or ELA; the authors "
                             "train with CQM-A and evaluate with QCM-A and --use-captions")  # fmt: skip
    parser.add_argument("--use-captions", action="store_true", help="of ScienceQA: captions.json adds to the context")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="adem-vl", description="Teach a frozen language model to see (ADEM-VL).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
        return sub

    sub = command("train", "Train a small adapter so that a language model you have understands images.")
    sub.add_argument("--model", choices=tuple(PAPERS), default="adem_vl",
                     help="adem_vl (smallest, fastest) or evlm (gated cross-attention)")  # fmt: skip
    _add_bases(sub, required=False)
    sub.add_argument("--data", nargs="+", default=["openmoji"],
                     help="openmoji, openmoji-names, openmoji-scenes, openmoji-videos, openmoji-pairs, an image folder "
                          "with metadata.jsonl, a folder of ScienceQA or of COCO (dataset_coco.json), a .json file of "
                          "LLaVA-style conversations or of Alpaca's instructions; several are mixed")  # fmt: skip
    sub.add_argument("--image-folder", help="where the conversations' pictures are")
    _add_scienceqa(sub)
    sub.add_argument("--train-size", type=_positive, help="number of samples drawn from the OpenMoji data sets")
    sub.add_argument("--output-dir", type=Path, required=True, help="where checkpoints and the adapter go")
    sub.add_argument("--epochs", type=float, default=1.0)
    sub.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps")
    sub.add_argument("--batch-size", type=_positive, default=32)
    sub.add_argument("--learning-rate", type=float, help="peak (default: 9e-3 x batch size / 256)")
    sub.add_argument("--max-length", type=_positive, help="longest sample in tokens; a longer one is an error")
    sub.add_argument("--seed", type=int, default=42)
    sub.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                     help="of the frozen models (default: the fastest here)")  # fmt: skip
    _add_bits(sub)
    sub.add_argument("--attn-implementation", help="eager, sdpa, flash_attention_2 (default: the fastest here)")
    sub.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the output folder")
    sub.add_argument("--set", nargs="+", type=_key_value, default=[], metavar="KEY=VALUE",
                     help="any other TrainingArguments field, e.g. save_steps=100 logging_steps=10")  # fmt: skip
    add_config_flags(sub)

    sub = command("caption", "Describe pictures or videos, or answer a question about them, with a trained adapter.")
    sub.add_argument("images", nargs="*", help="picture files")
    sub.add_argument("--video", nargs="+", default=[], metavar="FILE",
                     help="videos: animated pictures, folders of frames, with PyAV also films")  # fmt: skip
    sub.add_argument("--frames", type=_positive, default=8, help="frames of each video that are looked at")
    sub.add_argument("--checkpoint", help="folder or Hub id (default: the adapter that ships with this package)")
    _add_bits(sub)
    sub.add_argument("--prompt", default="a picture of", help='what to continue, e.g. "How many foxes are there?"')
    sub.add_argument("--max-new-tokens", type=_positive, default=32)
    sub.add_argument("--num-beams", type=_positive, default=1)
    sub.add_argument("--json", action="store_true", help="one JSON object per picture")

    sub = command("evaluate", "Measure a trained adapter on a test set, or score a file of predictions.")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--task",
                      help="openmoji-names, openmoji-scenes, openmoji-videos, openmoji-pairs, scienceqa, coco-caption, "
                           "mme, caption, questions")  # fmt: skip
    what.add_argument("--harness", choices=("lmms-eval",), help="run --tasks of this harness instead")
    sub.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="of the harness: gqa, mmbench_en_dev, ...")
    sub.add_argument("--include-path", type=Path, help="a folder with further tasks of the harness, as YAML files")
    sub.add_argument("--predictions", type=Path, help="score these instead of making them")
    sub.add_argument("--problems", type=Path, help="ScienceQA's problems.json, for the columns of its table")
    sub.add_argument("--checkpoint", help="folder or Hub id (default: the adapter that ships with this package)")
    _add_bits(sub)
    sub.add_argument("--data", "--data-dir", dest="data", help="to predict on, for tasks without data of their own")
    sub.add_argument("--split", default="test")
    _add_scienceqa(sub)
    sub.add_argument("--size", type=_positive, help="number of test samples of the OpenMoji data sets")
    sub.add_argument("--images", default="true",
                     choices=("true", "shuffled", "none", "shuffled_frames", "swapped_images"),
                     help="true, or as controls: another sample's image, none, the sample's frames or images in "
                          "another order")  # fmt: skip
    sub.add_argument("--output", type=Path, help="where predictions go, JSON lines (default: they are not kept)")
    sub.add_argument("--result-files", type=Path, metavar="DIR", help="of mme: write the official result files, too")
    sub.add_argument("--batch-size", type=_positive, default=32)
    sub.add_argument("--max-new-tokens", type=_positive, default=24)
    sub.add_argument("--json", action="store_true", help="print one JSON object")

    sub = command("convert", "Turn the authors' released adapter file (.pth) into a checkpoint of this package.")
    sub.add_argument("official", type=Path, help="the authors' checkpoint-*.pth")
    _add_bases(sub, required=True)
    sub.add_argument("output_dir", type=Path, metavar="OUT", help="folder to write")
    add_config_flags(sub, models=(ADEM_VL,))

    sub = command("info", "Show what a checkpoint is: its frozen models, its settings, how many numbers were trained.")
    sub.add_argument("checkpoint", nargs="?", help="folder or Hub id (default: the adapter that ships here)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``adem-vl``."""
    args = build_parser().parse_args(argv)
    quiet_libraries()
    keep_freed_memory()
    from transformers.utils.logging import disable_progress_bar  # heavy imports only after the usage is known right

    from . import commands

    if not sys.stderr.isatty():  # whoever reads stderr wants the error, not bars of models that load
        disable_progress_bar()
    try:
        getattr(commands, args.command)(args)
    except KeyboardInterrupt:
        print(f"adem-vl {args.command}: interrupted", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        if args.debug:
            raise
        reason = " ".join(str(error).split())
        if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in BAD_PATH):
            print(f"adem-vl {args.command}: error: {reason}", file=sys.stderr)
            return EXIT_BAD_INPUT
        print(f"adem-vl {args.command}: {type(error).__name__}: {reason} (--debug shows more)", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE
