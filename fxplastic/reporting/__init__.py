"""Reports of models, plans and runs: one page of HTML, tables for notebooks, plots, Graphviz."""
