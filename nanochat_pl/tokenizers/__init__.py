"""BPE, byte and character tokenizers: trained, saved as readable files, loaded, cached."""
