"""From raw text to batches: sources, virtual streams, packing and the LightningDataModule."""
