"""MuonAdamW, its recipe of parameter groups, the schedules and the scaling laws; knows no model."""
