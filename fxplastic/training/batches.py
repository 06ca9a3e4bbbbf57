"""Batches whose order and augmentation depend on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fxplastic.data import LongTailed, TensorSet
from fxplastic.training.randomness import Stream, generator_for

Batch = tuple[Tensor, Tensor]
"""Images float32 ``[B, C, H, W]`` and labels int64 ``[B]``."""


class Loading(Protocol):
    """What batches need of a configuration."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        ...

    @property
    def batch(self) -> int:
        """Samples in a batch."""
        ...

    @property
    def workers(self) -> int:
        """Processes that load images; sets in memory need none."""
        ...


def batches_per_epoch(samples: int, batch: int) -> int:
    """Number of training batches; a last batch of one is left out, as BatchNorm needs two.

    >>> batches_per_epoch(10, 4), batches_per_epoch(9, 4)
    (3, 2)
    """
    return samples // batch + (samples % batch > 1)


def training_batches(
    data: LongTailed, how: Loading, epoch: int, stream: Stream = "order"
) -> Iterator[Batch]:
    """Every training sample once, shuffled and augmented.

    Sets in memory draw from a generator of their own, and so do the workers of a DataLoader.
    Without workers, a set of image files draws from the global generators.

    Args:
        data: the set.
        how: seed, batch size and workers.
        epoch: from 1; the same epoch gives the same batches.
        stream: another name gives another order, apart from that of training.
    """
    generator = generator_for(how.seed, epoch, stream)
    order = torch.randperm(len(data.labels), generator=generator)
    chunks = [chunk for chunk in torch.split(order, how.batch) if len(chunk) > 1]
    return _batches(data.train, chunks, how.workers, generator, augment=True)


def test_batches(data: LongTailed, samples: int, how: Loading) -> Iterator[Batch]:
    """Every test sample once, in order and as it is.

    Args:
        data: the set.
        samples: of its test set.
        how: batch size and workers.
    """
    generator = generator_for(how.seed, 0, "order")
    chunks = torch.split(torch.arange(samples), how.batch)
    return _batches(data.test, chunks, how.workers, generator, augment=False)


def _batches(
    dataset: Dataset[tuple[Tensor, int]],
    chunks: Sequence[Tensor],
    workers: int,
    generator: torch.Generator,
    *,
    augment: bool,
) -> Iterator[Batch]:
    if isinstance(dataset, TensorSet):
        for chunk in chunks:
            yield dataset.batch(chunk, generator if augment else None)
        return
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # it gives samples, and the loader batches
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        generator=generator,  # seeds torch, numpy and random in each worker
        pin_memory=torch.cuda.is_available(),
    )
    yield from loader
