"""A machine-learning backend of Label Studio for each task: predictions for annotators, versions from annotations."""
