"""Leaves out messages of other libraries that ask nothing of a user."""

import logging

NO_GPU = "Setting accelerator to CPU"


def quiet_libraries() -> None:
    """Leave out what bitsandbytes and DeepSpeed, where they are installed, tell about a machine without a GPU.

    DeepSpeed tells it when it is imported, which accelerate does whenever a model is saved, and on standard output,
    where the results of a command belong. bitsandbytes warns of missing kernels, and at every step of 8-bit layers. The
    setting holds for the whole process, so a program should call this function and a library should not.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # DeepSpeed sets the level of its logger itself when it is imported, but keeps the logger's filters
    logging.getLogger("DeepSpeed").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(NO_GPU)
