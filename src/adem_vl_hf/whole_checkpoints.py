"""Makes the checkpoints of a ``Trainer`` appear whole or not at all, and finds the newest whole one to resume from.

``Trainer`` makes the folder ``checkpoint-N`` first and fills it afterwards. A process that dies meanwhile leaves half a
checkpoint behind, under the name of the newest. ``WholeCheckpoints`` has it write to ``_checkpoint-N.saving`` instead,
which is renamed when the files of all processes are there and on the disk. The leading underscore keeps the temporary
folders out of uploads to the Hub. Old checkpoints are renamed before they are deleted.
"""

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Sized
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from .json_files import read_object
from .modeling.one_save import flush, naming_full_disk

if TYPE_CHECKING:  # a mixin stands before the Trainer that it completes
    from transformers import Trainer
    from transformers import Trainer as _Trainer
else:
    _Trainer = object

MANIFEST = "complete.json"
SAVING, REPLACED, DELETED = "saving", "replaced", "deleted"
SAMPLE, SAMPLES = 2**20, 256  # bytes and number of the pieces of a file that are read for its digest
WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "pytorch_model.bin",
    "pytorch_model_fsdp.bin", "pytorch_model_fsdp_0", "latest",
)  # fmt: skip
OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "optimizer_0", "latest")  # plain, FSDP2 (whole, in shards), DeepSpeed


class WholeCheckpoints(_Trainer):
    """A mixin for ``Trainer`` and its subclasses: ``class Mine(WholeCheckpoints, SFTTrainer): ...``."""

    _staging: Path | None = None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Give the batches of a step as ``Trainer`` does, or none after the last step.

        ``Trainer`` looks whether the training has ended after a step alone. A run that died while it saved its final
        model, and that goes on from a checkpoint of the last step in the middle of an epoch, would take one step more.

        Args:
            *args (Any): The arguments of ``Trainer``.
            **kwargs (Any): The arguments of ``Trainer``.

        Returns:
            The batches, and the number of their supervised tokens.
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None
        return super().get_batch_samples(*args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:  # else it is about to be renamed, and is pushed afterwards
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint as ``Trainer`` does, under a temporary name until it is whole."""
        output, name = Path(self._get_output_dir(trial)), f"checkpoint-{self.state.global_step}"
        wait = self.accelerator.wait_for_everyone
        staging = output / f"_{name}.{SAVING}"
        if self.is_world_process_zero():
            tidy(output)
        wait()
        if self.is_local_process_zero():  # several machines may have a folder each
            output.mkdir(parents=True, exist_ok=True)
            with naming_full_disk(output):
                staging.mkdir(exist_ok=True)
        wait()
        self._staging = staging
        try:
            with naming_full_disk(output, written=staging):
                super()._save_checkpoint(model, trial)
                self._complete(staging / name, output / name)
        except BaseException:
            if self.is_local_process_zero():
                shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self._staging = None
        wait()
        if self.is_world_process_zero():
            publish(staging / name, output / name)
        wait()
        if self.is_local_process_zero() and staging.is_dir():  # a folder of this machine alone
            publish(staging / name, output / name)
        wait()
        if self.args.should_save:
            rotate(output, self.args.save_total_limit, self.state.global_step, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(output / name))

    def _complete(self, staged: Path, final: Path) -> None:
        """Add what ``Trainer`` leaves out, when the files of all processes are there, and flush all to the disk."""
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "write_place"):
                callback.write_place(staged, self.args, self.state)
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        _check_finite(staged)
        files = [path for path in sorted(staged.rglob("*")) if path.is_file()]
        manifest = {
            "processes": self.args.world_size,
            "order": order_of(self),
            "files": {str(path.relative_to(staged)): [path.stat().st_size, digest(path)] for path in files},
        }
        (staged / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in (*files, staged / MANIFEST, *(path for path in staged.rglob("*") if path.is_dir()), staged):
            flush(path)


def order_of(trainer: "Trainer") -> dict[str, int | None]:
    """What the order of the samples follows from, with the number of processes.

    Args:
        trainer (Trainer): The trainer.

    Returns:
        The values by the names of the training arguments, and the number of samples, which is None for a stream.
    """
    names = ("seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps")
    samples = len(trainer.train_dataset) if isinstance(trainer.train_dataset, Sized) else None
    return {name: getattr(trainer.args, name) for name in names} | {"number_of_samples": samples}


def _check_finite(staged: Path) -> None:
    """Refuse to save an adapter with NaN or infinity, which no later step can mend."""
    path = staged / "model.safetensors"
    if not path.is_file():
        return
    with safetensors.safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - it is no dictionary
            if key.startswith("adapter.") and not file.get_tensor(key).isfinite().all():
                raise FloatingPointError(
                    f"{key} holds NaN or infinity after step {staged.name.rsplit('-', 1)[-1]}, so that this checkpoint "
                    "is not saved and the ones before it stay: resume with a lower learning rate, or with max_grad_norm"
                )


def publish(staged: Path, final: Path) -> None:
    """Give a whole checkpoint its name. One of this name that is there already is replaced.

    Args:
        staged (Path): The checkpoint in its temporary folder, which is removed.
        final (Path): Its name. Nothing happens if another machine has given it to the same folder before.
    """
    with suppress(FileNotFoundError):
        try:
            os.rename(staged, final)
        except OSError:
            if not (staged.is_dir() and final.is_dir()):
                raise
            replaced = final.with_name(f"_{final.name}.{REPLACED}")
            os.rename(final, replaced)  # which tidy takes back, should this process die here
            os.rename(staged, final)
            shutil.rmtree(replaced, ignore_errors=True)
        flush(final.parent)
    shutil.rmtree(staged.parent, ignore_errors=True)


def tidy(output: Path) -> None:
    """Remove what saves have left whose process died.

    Args:
        output (Path): The output folder of the training.
    """
    for path in output.glob("_checkpoint-*.*"):
        name, _, kind = path.name[1:].partition(".")
        if kind == REPLACED and not (output / name).exists():
            os.rename(path, output / name)
        elif kind in (SAVING, REPLACED, DELETED):
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)


def rotate(output: Path, limit: int | None, step: int, best: str | None) -> None:
    """Delete old checkpoints, never the one that was just saved, nor the best.

    Args:
        output (Path): The output folder of the training.
        limit (int | None): How many are kept (``save_total_limit``). None means all.
        step (int): The step of the one that was just saved.
        best (str | None): The folder of the best one, if there is one.
    """
    if not limit or limit < 0:
        return
    there = checkpoints(output)
    kept = {step} | {number for number, path in there.items() if best is not None and path == Path(best)}
    # those of later steps are of a run that was given up
    order = sorted(there, key=lambda number: (number <= step, number))
    for number in [number for number in order if number not in kept][: max(0, len(there) - max(limit, len(kept)))]:
        deleted = there[number].with_name(f"_{there[number].name}.{DELETED}")
        os.rename(there[number], deleted)
        shutil.rmtree(deleted, ignore_errors=True)


def checkpoints(output: Path) -> dict[int, Path]:
    """List the checkpoints of a training.

    Args:
        output (Path): Its output folder.

    Returns:
        The folders by their steps, the newest first.
    """
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in output.glob("checkpoint-*")}
    numbered = {int(match[1]): path for path, match in found.items() if match and path.is_dir()}
    return dict(sorted(numbered.items(), reverse=True))


def digest(path: Path) -> str:
    """Compute the SHA-256 of a file, or of pieces of it if it is larger than 256 MB.

    Args:
        path (Path): The file.

    Returns:
        The digest as hexadecimal digits.
    """
    computed, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for number in range(min(SAMPLES, -(-size // SAMPLE))):
            if size > SAMPLES * SAMPLE:
                file.seek((size - SAMPLE) * number // (SAMPLES - 1))
            computed.update(file.read(SAMPLE))
    return computed.hexdigest()


def lack_of(folder: Path, process: int, processes: int) -> str | None:
    """Say why a training cannot be resumed from a checkpoint to the same bits.

    Args:
        folder (Path): The checkpoint, of ``WholeCheckpoints`` or of a stock ``Trainer``, which notes no digests.
        process (int): The number of this process.
        processes (int): The number of all processes.

    Returns:
        The reason, or None if there is none.
    """
    names = {path.name for path in folder.iterdir()}
    states = [name for name in names if re.fullmatch(r"rng_state(_\d+)?\.pth", name)]
    own = "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"
    manifest: dict[str, Any] = {}
    try:
        if MANIFEST in names:
            manifest = _manifest(folder / MANIFEST)
        saved_by = manifest.get("processes", processes if own in states else 1 if "rng_state.pth" in states else None)
        required = [("trainer_state.json",), WEIGHTS, OPTIMIZERS]
        required += [] if "latest" in names else [("scheduler.pt",)]
        required += [(own,)] if saved_by in (processes, None) else [tuple(states) or (own,)]
        for any_of in required:
            if not names.intersection(any_of):
                return f"{any_of[0]} is missing"
        for name, (size, noted) in manifest.get("files", {}).items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or digest(path) != noted:
                return f"{name} is not what was saved"
        if not manifest:
            for path in folder.iterdir():
                _read(path)
    except (OSError, ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        return f"{error} ({type(error).__name__})"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    """Read what a save has noted of its files. What is damaged says nothing about them."""
    manifest = read_object(path, "it is damaged")
    files = manifest.get("files")
    noted = list(files.values()) if isinstance(files, dict) else []
    are_whole = all(isinstance(one, list) and [type(part) for part in one] == [int, str] for one in noted)
    if not noted or not are_whole or not isinstance(manifest.get("processes"), int):
        raise ValueError(f"{path.name} is damaged")
    return manifest


def _read(path: Path) -> None:
    """Raise an error that names a file which is cut short."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt"):
                pass
        elif path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path):
                pass
    except (ValueError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
