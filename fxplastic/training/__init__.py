"""Training runs with neuron turnover: losses, configurations, checkpoints, and the loop.

    config = fxplastic.training.Config(model="resnet10t", data="digits-lt", epochs=60, every=20)
    result = fxplastic.training.train(config)

Nothing in `import fxplastic` imports this; it needs scikit-learn, matplotlib and tqdm. For a loop
of your own take `fxplastic.Plasticity`.
"""

from fxplastic.training.config import Config
from fxplastic.training.loop import train
from fxplastic.training.losses import Loss, check_labels, make_loss
from fxplastic.training.reading import as_json, from_flags, read_values
from fxplastic.training.records import Result

__all__ = [
    "Config",
    "Loss",
    "Result",
    "as_json",
    "check_labels",
    "from_flags",
    "make_loss",
    "read_values",
    "train",
]
