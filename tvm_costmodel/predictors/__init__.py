"""What a user loads: predictors of latency, their checkpoints, engines and intervals."""
