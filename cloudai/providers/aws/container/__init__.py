"""Files that travel into SageMaker's containers: standard library alone, no import of cloudai."""
