"""Parts of `benchmarks/faults.py`: commands under kills, torn files, full disks and hostile files."""
