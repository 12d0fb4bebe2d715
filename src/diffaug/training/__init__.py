"""A data set becomes a model folder: codec, painter, validators, calibration."""
