"""For all tests: the gate draws the same Hypothesis examples in every run; `scripts/soak properties` looks for new ones."""

from hypothesis import settings

settings.register_profile("gate", derandomize=True)
settings.register_profile("search", max_examples=2_000, print_blob=True)
settings.load_profile("gate")
