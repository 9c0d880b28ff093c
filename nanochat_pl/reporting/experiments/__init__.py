"""The record of experiments: one a run and stage, kept in experiments.jsonl and told in experiments.md."""
