"""What training on several processes asks of the model.

Every process takes the same path through it: DDP waits for the gradient of every trained tensor from every process, and
FSDP and ZeRO-3 collect a module's weights from all of them whenever one runs it. A process whose share of the batch
holds no image therefore runs the tower all the same, and its part of the adapter gets gradients of zero.
"""

from contextlib import contextmanager

import torch


def several_processes() -> bool:
    """Whether this process is one of several that train or predict together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def features_of_no_image(model) -> torch.Tensor:
    """The features [0, 1+N, C] of no image; the tower and its adapters run, on a blank one.

    Empty, not zero: what is computed from them is exactly what a batch without images gives, with gradients of zero.
    """
    size = model.config.vision_config.image_size
    return model.get_image_features(torch.zeros(1, 3, size, size), return_dict=True).pooler_output[:0]


@contextmanager
def own_class(model):
    """The model under its own class while it is saved.

    FSDP2 turns the class into a subclass of its own making, defined in a file of PyTorch's, which ``save_pretrained``
    would take for the model's code.
    """
    sharded = type(model)
    model.__class__ = next(cls for cls in sharded.__mro__ if not cls.__module__.startswith("torch.distributed"))
    try:
        yield model
    finally:
        model.__class__ = sharded


class OneDeviceMixin:
    """A model that runs on one device a process (or is spread by accelerate)."""

    def _replicate_for_data_parallel(self):
        """Asked of every module that ``nn.DataParallel`` puts on several devices.

        Raises:
            ValueError: always. The hooks in the layers belong to the first device's adapter.
        """
        raise ValueError(
            "nn.DataParallel cannot replicate this model; start one process a device "
            "(torchrun --nproc-per-node N, accelerate launch), or show this process one device (CUDA_VISIBLE_DEVICES=0)"
        )
