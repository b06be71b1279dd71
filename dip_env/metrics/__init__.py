"""The field's metrics for crowds; each protocol follows its published evaluator."""
