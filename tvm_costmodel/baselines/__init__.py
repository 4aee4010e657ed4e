"""Predictors that a Transformer has to beat: XGBoost on physical features, and FLOPs."""
