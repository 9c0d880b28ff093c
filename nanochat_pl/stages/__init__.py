"""The LightningModules: each stage is a loss on the model, an optimizer from roles, and a schedule."""
