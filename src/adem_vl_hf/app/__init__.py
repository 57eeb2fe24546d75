"""The web page of ``adem-vl app``: a chat about images and videos, and where the words of an answer come from."""
