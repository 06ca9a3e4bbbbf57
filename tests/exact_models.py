"""The models that exactness is shown on: name, library, image size and coverage floor."""

from dataclasses import dataclass

import timm
import torch
import torchvision
from torch import Tensor, nn

from tests.randomise import without_dropout


@dataclass(frozen=True)
class ModelSpec:
    """One model of the exactness table.

    `floor` is the least slot coverage with attention frozen (None: none is demanded). `small`
    is the image size that the test suite uses, for those models that it runs.
    """

    library: str
    model: str
    floor: float | None = None
    size: int = 224
    small: int | None = None
    optimizer: str = "AdamW"

    @property
    def name(self) -> str:
        return f"{self.library}/{self.model}"

    @property
    def sizes_are_options(self) -> bool:
        """Whether the image size is fixed when the model is made."""
        return self.model.startswith("vit_")

    def build(self, size: int, dropout: bool = True) -> nn.Module:
        """The model with fresh random weights, float64, for images of `size`.

        Without `dropout` every element-wise dropout is off; copies of a neuron draw masks of
        their own, so no turnover can be exact under it.
        """
        model = self._made(size, dropout).double()
        return model if dropout else without_dropout(model)

    def _made(self, size: int, dropout: bool) -> nn.Module:
        options = {"img_size": size} if self.sizes_are_options and size != self.size else {}
        if not dropout and self.library == "timm":
            options["drop_rate"] = 0.0  # some models call the function and have no module for it
        if self.library == "timm":
            return timm.create_model(self.model, pretrained=False, **options)
        if self.model in ("googlenet", "inception_v3"):
            # Their own initialisation takes a minute and a warning; weights are random anyway.
            options["init_weights"] = False
        return torchvision.models.get_model(self.model, weights=None, **options)

    def images(self, size: int, batch: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, 3, size, size, generator=generator, dtype=torch.float64)


SPECS = (
    ModelSpec("timm", "resnet18", 0.97, small=64),
    ModelSpec("timm", "resnet50", 0.95),
    ModelSpec("timm", "resnext50_32x4d", 0.95),
    ModelSpec("timm", "seresnet50", 0.95),
    ModelSpec("timm", "densenet121", 0.93),
    ModelSpec("timm", "vgg11_bn", 0.98, optimizer="SGD"),  # Adam's state of 133 M doubles is 2 GB
    ModelSpec("timm", "inception_v3", size=299),
    ModelSpec("timm", "hrnet_w18_small", 0.92),
    ModelSpec("timm", "efficientnet_b0", 0.87),
    ModelSpec("timm", "mobilenetv3_small_050", 0.67, small=64),
    ModelSpec("timm", "ghostnet_050", 0.74, small=64),
    ModelSpec("timm", "regnety_002", 0.93, small=64),
    ModelSpec("timm", "nfnet_l0", 0.23),
    ModelSpec("timm", "convnext_atto", 0.41, small=64),
    ModelSpec("timm", "convnextv2_atto"),
    ModelSpec("timm", "mambaout_femto", 0.35),
    ModelSpec("timm", "poolformerv2_s12", 0.39),
    ModelSpec("timm", "mixer_s32_224", 0.44),
    ModelSpec("timm", "vit_tiny_patch16_224", 0.31, small=64),
    ModelSpec("timm", "deit_tiny_distilled_patch16_224", 0.30),
    ModelSpec("timm", "swin_tiny_patch4_window7_224", 0.30),
    ModelSpec("timm", "swinv2_tiny_window8_256", 0.30, size=256),
    ModelSpec("timm", "cait_xxs24_224", 0.32),
    ModelSpec("timm", "levit_128s", 0.77, small=224),
    ModelSpec("timm", "coat_tiny", 0.23),
    ModelSpec("torchvision", "shufflenet_v2_x0_5", 0.62, small=64),
    ModelSpec("torchvision", "googlenet"),
    ModelSpec("torchvision", "inception_v3", size=299),
    ModelSpec("torchvision", "squeezenet1_1", 0.79),
    ModelSpec("torchvision", "vit_b_16", 0.32, optimizer="SGD"),
    ModelSpec("torchvision", "swin_t", 0.30),
)
SMALL = tuple(spec for spec in SPECS if spec.small is not None)


def spec_named(name: str) -> ModelSpec:
    """The spec called `name`, as in "timm/resnet18"."""
    found = [spec for spec in SPECS if spec.name == name]
    if not found:
        raise SystemExit(f"no model {name!r} in the table; it has {[s.name for s in SPECS]}")
    return found[0]
