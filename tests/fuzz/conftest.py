"""Fuzz tests are collected on x86-64 only, because atheris publishes no other wheels."""

import platform

collect_ignore_glob = [] if platform.machine() == "x86_64" else ["test_*.py"]
