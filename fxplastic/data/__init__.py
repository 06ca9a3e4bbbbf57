"""Long-tailed image data, and nothing that the pass depends on.

>>> import torch
>>> from fxplastic import data
>>> digits = data.load("digits-lt", imbalance=20)
>>> print(data.describe(digits))
digits-lt: 10 classes, images of 1 x 32 x 32
  453 to train, 400 to test
  from 134 down to 6 training images a class, imbalance 22.33
  1 many (over 100), 5 medium (20 to 100), 4 few (under 20)
>>> images, labels = digits.train.batch(torch.arange(8), torch.Generator().manual_seed(0))
>>> images.shape
torch.Size([8, 1, 32, 32])

`import fxplastic` does not import this. It needs tqdm, scikit-learn for digits, and matplotlib (for
its fonts) for characters.
"""

from fxplastic.data.cache import cache_folder
from fxplastic.data.characters import load_characters
from fxplastic.data.image_list import ImageList
from fxplastic.data.loading import NAMES, load
from fxplastic.data.long_tailed import LongTailed, describe
from fxplastic.data.profiles import exponential_counts, keep_counts
from fxplastic.data.render import Difficulty
from fxplastic.data.tensor_set import Augmentation, TensorSet

__all__ = [
    "NAMES",
    "Augmentation",
    "Difficulty",
    "ImageList",
    "LongTailed",
    "TensorSet",
    "cache_folder",
    "describe",
    "exponential_counts",
    "keep_counts",
    "load",
    "load_characters",
]
