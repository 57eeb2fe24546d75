"""Small models that need no hub: a language model from a package index, a vision tower and an adapter."""
