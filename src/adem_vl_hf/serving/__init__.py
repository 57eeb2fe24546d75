"""Serving a checkpoint over HTTP with OpenAI's protocol, by the server of Transformers."""
