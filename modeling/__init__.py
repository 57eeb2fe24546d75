"""The Hub bundle: the files that travel beside the adapter weights, importable as ``adem_vl_hf.modeling``."""
