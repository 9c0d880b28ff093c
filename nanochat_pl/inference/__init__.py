"""From a model to tokens: prefill, decode, sampling."""
