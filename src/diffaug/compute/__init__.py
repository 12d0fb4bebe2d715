"""Where and how things are computed: devices, precision, seeds, progress, worker pools."""
