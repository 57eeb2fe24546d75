"""The web page of ``adem-vl app``: a chat about images and videos, and where the words of an answer come from."""

import os

# Gradio reads both when it is imported, and later: nobody is told that it runs, and no visitor's chat goes to the Hub
os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
