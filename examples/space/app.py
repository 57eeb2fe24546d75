"""A Hugging Face Space that serves the page of `adem-vl app` for one checkpoint: the id is all that is set."""

import os

from adem_vl_hf.app.answers import Answers
from adem_vl_hf.app.page import serve
from adem_vl_hf.loading import load_checkpoint
from adem_vl_hf.training import fastest_setting

CHECKPOINT = os.environ.get("CHECKPOINT")  # a Hub id, as a variable of the Space; without one, what ships is served

model, processor = load_checkpoint(CHECKPOINT, **fastest_setting())
answers = Answers(model, processor, max_new_tokens=int(os.environ.get("MAX_NEW_TOKENS", "64")))
title = CHECKPOINT or "The checkpoint of adem-vl-hf"
# a Space sets both; elsewhere the page is for this machine alone
host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), int(os.environ.get("GRADIO_SERVER_PORT", "7860"))

if __name__ == "__main__":
    serve(answers, title, host, port)
