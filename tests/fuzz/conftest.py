"""Where fuzzing runs: atheris publishes wheels for x86-64 only, so other machines do not collect this directory."""

import platform

collect_ignore_glob = [] if platform.machine() == "x86_64" else ["test_*.py"]
