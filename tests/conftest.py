"""Settings for all tests, made before torch is loaded."""

import os

# one thread a process: two that wait for each other on a busy machine are many times slower than one
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
