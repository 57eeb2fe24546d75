"""What ``build_trainer`` adds to a stock ``Trainer``: a log file, a warning if nothing is learned, a stream's place."""

import json
import logging
import statistics
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .data.stream import MixedStream, Stream
from .files import write_json
from .json_files import ENTRY, LOG
from .modeling.one_save import naming_full_disk
from .recipe import peak_learning_rate
from .whole_checkpoints import MANIFEST

logger = logging.getLogger("adem_vl_hf")
STREAM_FILE = "stream.json"
# The sum of the rates of all steps, in steps at the rate of the rule. With the embedded models and 40 images, a run of
# 4 has learned nothing of them, and one of 75 most of it.
FEW_STEPS = 15.0
FLAT = 0.97  # of the first losses
FLAT_AFTER = 40  # steps
EXPLODED = 10.0  # times the median of the losses so far
MEDIAN_OF = 5  # losses at least


class JsonLinesLog(TrainerCallback):
    """Writes everything that ``Trainer`` logs to ``log.jsonl`` in the output folder, one JSON object per line."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove half a line that a process has left which died while it wrote. Of another file, end the last line.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.
        """
        path = Path(args.output_dir) / LOG
        if state.is_world_process_zero and path.is_file():
            with path.open("rb+") as file:
                *_, half = (text := file.read()).split(b"\n")
                if ENTRY.startswith(half[: len(ENTRY)]):
                    file.truncate(len(text) - len(half))
                else:
                    file.write(b"\n")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append the newest log entry.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            logs (dict[str, Any] | None): The entry.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.
        """
        if state.is_world_process_zero and logs:
            folder = Path(args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it, and the weights are still here
            with naming_full_disk(folder), (folder / LOG).open("a", encoding="utf-8") as file:
                print(json.dumps({"step": state.global_step, **logs}), file=file)


class LearningWatch(TrainerCallback):
    """Says in one line that a run does not learn: its rate is too low, or its loss does not fall, or it explodes."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.said = self.said_exploded = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Compare the learning rate and the number of steps with those that the recipe would need.

        A resumed run remembers the losses of all of its steps.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            model (Any): The model.
            **kwargs (Any): The rest of what ``Trainer`` passes, which is ignored.
        """
        self.losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        adam = any(name in str(args.optim).lower() for name in ("adam", "lion", "ademamix"))
        if not (state.is_world_process_zero and adam and state.max_steps):
            return
        rate = peak_learning_rate(model.config)
        # a cosine or a line from the peak to zero is worth half of its steps
        steps = args.learning_rate / rate * state.max_steps / 2
        if 0 < steps < FEW_STEPS:  # who sets a rate of 0 wants nothing to be learned
            enough = round(4 * FEW_STEPS * rate / args.learning_rate)
            low = args.learning_rate < 0.9 * rate
            ending, are = ("", "is") if state.max_steps == 1 else ("s", "are")
            logger.warning(
                "this run will learn hardly anything: %d step%s with a peak learning rate of %.1e%s; take %sat least "
                "%d steps", state.max_steps, ending, args.learning_rate,
                f" {are} worth {steps:.1f} steps at the {rate:.1e} that suit this model" if low else f" {are} too few",
                "that rate, or " if low else "", enough,
            )  # fmt: skip

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the newest losses with the first ones, once.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            logs (dict[str, Any] | None): The entry.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.
        """
        if "loss" not in (logs or {}) or not state.is_world_process_zero:
            return
        self._compare_with_median(logs["loss"], state.global_step, args.learning_rate)  # type: ignore[index]
        self.losses.append(logs["loss"])  # type: ignore[index]
        if self.said:
            return
        part = len(self.losses) // 4
        if state.global_step < max(FLAT_AFTER, state.max_steps // 3) or part < 1:
            return
        self.said = True  # one comparison in a run
        first, last = statistics.mean(self.losses[:part]), statistics.mean(self.losses[-part:])
        if last > FLAT * first:
            logger.warning(
                "the loss has not fallen in %d steps (%.3f at first, %.3f now): if this adapter is new, check the "
                "answers in the data, and try a higher learning rate than %.1e",
                state.global_step, first, last, args.learning_rate,
            )  # fmt: skip

    def _compare_with_median(self, loss: float, step: int, rate: float) -> None:
        """Say once that the loss has exploded."""
        if self.said_exploded or len(self.losses) < MEDIAN_OF:
            return
        median = statistics.median(self.losses)
        if loss > EXPLODED * median:
            self.said_exploded = True
            logger.warning(
                "the loss has exploded: %.3f at step %d, where the median of those before is %.3f; look at the samples "
                "there, or begin another run from an earlier checkpoint (--from-checkpoint) with a lower learning rate "
                "than %.1e or with max_grad_norm",
                loss, step, median, rate,
            )  # fmt: skip


class StreamPlace(TrainerCallback):
    """Notes in each checkpoint which samples of a stream were used, so that a resumed run goes on with the next.

    Several workers of a ``DataLoader`` keep their places to themselves. With them, nothing is noted, and a resumed run
    reads the stream from its beginning up to the right sample.

    Args:
        stream (Stream | MixedStream): The training set.
        workers (int): The number of workers that read it.
        context (str | None): How they start, as ``multiprocessing`` names it. None means its default.
    """

    def __init__(self, stream: Stream | MixedStream, workers: int, context: str | None = None) -> None:
        self.stream, self.workers, self.first, self.first_step = stream, workers, 0, 0
        if workers == 1:
            stream.follow_worker(context)

    def resume(self, checkpoint: Path) -> bool:
        """Take the stream to the place that a checkpoint notes.

        Args:
            checkpoint (Path): The folder of the checkpoint.

        Returns:
            Whether it notes one.

        Raises:
            ValueError: It was saved by a run on other data, or one whose workers read in another order.
        """
        path = checkpoint / STREAM_FILE
        if not path.is_file():
            return False
        if self.workers > 1:
            raise ValueError(
                f"{checkpoint} was saved by a run that read its stream in order, and {self.workers} workers would read "
                "it in another; resume with one worker or none (dataloader_num_workers)"
            )
        state = json.loads(path.read_text(encoding="utf-8"))
        self.first, self.first_step = state["sample"], state["step"]
        self.stream.load_state_dict(state)
        return True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the place into the newest checkpoint, if a ``Trainer`` has saved it that does not ask for the place.

        Args:
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
            control (TrainerControl): The control flow of the training, which stays as it is.
            **kwargs (Any): The model and the rest of what ``Trainer`` passes, which are ignored.
        """
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not (folder / MANIFEST).is_file():
            self.write_place(folder, args, state)

    def write_place(self, folder: Path, args: TrainingArguments, state: TrainerState) -> None:
        """Write the place into a checkpoint, before it gets its name (``WholeCheckpoints``).

        Args:
            folder (Path): The checkpoint.
            args (TrainingArguments): The training arguments.
            state (TrainerState): The state of the training.
        """
        if not state.is_world_process_zero or args.dataloader_num_workers > 1:
            return
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        used = self.first + (state.global_step - self.first_step) * per_step
        write_json(folder / STREAM_FILE, {**self.stream.state_dict(used), "step": state.global_step})
