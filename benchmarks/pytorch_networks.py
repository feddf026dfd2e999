"""What people would pick instead, in PyTorch: the plain U-Net of retina-unet, and W-Net.

W-Net is that of Galdran et al. 2022 ("State-of-the-art retinal vessel segmentation with
minimalistic models"), written anew: two small U-Nets, the second of which sees the image and what
the first one found. Its number of parameters, 68,482, is the paper's.
"""

import torch
from torch import nn

WNET_FILTERS = (8, 16, 32)


class UNet(nn.Module):
    """The network of lib.unet.get_unet: (N, 1, H, W) -> (N, 2, H, W), before the softmax."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 32), (32, 64), (64, 128), (192, 64), (96, 32))
        self.blocks = nn.ModuleList(self.block(*size) for size in sizes)
        self.last = nn.Conv2d(32, 2, 1)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)

    @staticmethod
    def block(channels, filters):
        """Two convolutions with dropout between them."""
        first, second = (nn.Conv2d(n, filters, 3, padding=1) for n in (channels, filters))
        return nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), second, nn.ReLU())

    def forward(self, x):
        """Computes the logits."""
        skip1 = self.blocks[0](x)
        skip2 = self.blocks[1](self.pool(skip1))
        x = self.blocks[2](self.pool(skip2))
        x = self.blocks[3](torch.cat([self.up(x), skip2], 1))
        return self.last(self.blocks[4](torch.cat([self.up(x), skip1], 1)))


class WNet(nn.Module):
    """Two small U-Nets one after the other: (N, 3, H, W) -> (N, 1, H, W), a logit of vessel."""

    def __init__(self):
        super().__init__()
        self.first, self.second = SmallUNet(3), SmallUNet(4)

    def forward(self, x):
        """Computes the second one's logits."""
        return self.second(torch.cat([x, torch.sigmoid(self.first(x))], 1))


class SmallUNet(nn.Module):
    """A U-Net with two poolings, residual blocks, and a convolution on each skip."""

    def __init__(self, channels):
        super().__init__()
        a, b, c = WNET_FILTERS
        self.down = nn.ModuleList([Residual(channels, a), Residual(a, b), Residual(b, c)])
        self.bridges = nn.ModuleList([_normalised(a, a), _normalised(b, b)])
        self.ups = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2), nn.ConvTranspose2d(c, b, 2, 2)])
        self.joined = nn.ModuleList([Residual(2 * a, a), Residual(2 * b, b)])
        self.last, self.pool = nn.Conv2d(a, 1, 1), nn.MaxPool2d(2)

    def forward(self, x):
        """Computes the logits."""
        skips = [self.down[0](x)]
        skips.append(self.down[1](self.pool(skips[0])))
        x = self.down[2](self.pool(skips[1]))
        for level in (1, 0):
            x = torch.cat([self.ups[level](x), self.bridges[level](skips[level])], 1)
            x = self.joined[level](x)
        return self.last(x)


class Residual(nn.Module):
    """Two convolutions, and one of 1 x 1 around them."""

    def __init__(self, channels, filters):
        super().__init__()
        self.body = nn.Sequential(_normalised(channels, filters), _normalised(filters, filters))
        around = nn.Conv2d(channels, filters, 1, bias=False)
        self.around = nn.Sequential(around, nn.BatchNorm2d(filters))

    def forward(self, x):
        """Adds what goes through and what goes around."""
        return self.body(x) + self.around(x)


def _normalised(channels, filters):
    convolution = nn.Conv2d(channels, filters, 3, padding=1)
    return nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(filters))
