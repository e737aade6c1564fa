"""Names of azureml.contrib."""
