"""A page taken apart, and a small model with a name that must be escaped."""

from html.parser import HTMLParser

import torch
from torch import nn

VOID = set("meta link input br hr img path".split())
EVIL = "<script>alert('x')</script>"


class Net(nn.Module):
    """A residual block under a name that must be escaped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.add_module("<script>", nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()))
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + getattr(self, "<script>")(x)
        return self.head(x.mean((2, 3)))


class Page(HTMLParser):
    """A page's elements, and whether every one that opens is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def having(self, key: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if key in attributes]
