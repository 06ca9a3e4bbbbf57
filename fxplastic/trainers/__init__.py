"""Turnover in other people's training loops; each module needs the library that it is named for.

`fxplastic.trainers.lightning` and `fxplastic.trainers.pytorch_lightning` hold a callback for the
Trainer of Lightning, `fxplastic.trainers.transformers` one for that of transformers. Nothing is
imported until one of them is.
"""
