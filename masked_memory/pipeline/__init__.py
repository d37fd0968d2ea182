"""What the stages share and that knows nothing of the science: files, runs, MLflow, Optuna, training, figures."""
