"""Groups and sites as a networkx graph, for drawing and for questions."""

from __future__ import annotations

from typing import Any

from fxplastic.plastic import Plastic


def group_graph(plastic: Plastic) -> Any:
    """A bipartite `networkx.MultiGraph`: groups on one side, parameters on the other.

    Group nodes are ``("group", name)`` with `size`, `blocks` and `exact`; parameter nodes are
    ``("parameter", name)`` with `shape`; an edge is a site, with `axis`, `role` and `slots`
    (positions per neuron).

    >>> import torch, fxplastic
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = group_graph(fxplastic.plasticize(mlp, torch.zeros(2, 3)))
    >>> sorted(p for kind, p in graph if kind == "parameter")
    ['0.bias', '0.weight', '2.weight']
    """
    import networkx

    graph = networkx.MultiGraph()
    shapes = {n: tuple(t.shape) for n, t in plastic.named_parameters()}
    shapes |= {n: tuple(t.shape) for n, t in plastic.named_buffers()}
    for name, group in plastic.groups.items():
        graph.add_node(
            ("group", name), size=group.size, blocks=group.block_count, exact=group.exact
        )
        for site in group.sites:
            graph.add_node(("parameter", site.parameter), shape=shapes[site.parameter])
            graph.add_edge(
                ("group", name),
                ("parameter", site.parameter),
                axis=site.axis,
                role=site.role,
                slots=int(site.positions.shape[1]),
            )
    return graph
