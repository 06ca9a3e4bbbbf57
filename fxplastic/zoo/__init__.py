"""The zoo: every model of timm, torchvision and transformers put through the pass, with a table.

Nothing of the pass imports this package; names of models and libraries stand here and only here.
"""
