"""Settings for every test: one thread, and how many architectures hypothesis draws.

`HYPOTHESIS_PROFILE=nightly` draws ten times as many, from a fresh seed each time.
"""

import os

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # many small operators: threads cost more than they give

_slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=_slow
)
settings.register_profile("dev", settings.get_profile("ci"), print_blob=True)
settings.register_profile(
    "nightly", settings.get_profile("dev"), max_examples=2000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
