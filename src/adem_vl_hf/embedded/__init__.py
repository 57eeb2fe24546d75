"""The small models that need no hub: a language model from a package index, a vision tower, an adapter."""
