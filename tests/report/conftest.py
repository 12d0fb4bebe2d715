import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "study"))  # study_folders.py, which the study's tests share
