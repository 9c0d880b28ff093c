"""Building blocks of models: attention, KV cache, positions, layers, the fused loss. Torch only."""
