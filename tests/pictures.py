"""Pictures that a person might choose as a logo."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from PIL import Image, ImageDraw


def drawn(width: int = 400, height: int = 100, mode: str = "RGBA") -> Image.Image:
    """A wordmark: shapes of two colours on nothing."""
    image = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((0, 0, height - 1, height - 1), fill=(11, 79, 138, 255))
    if width > height:
        draw.rectangle((height, height // 4, width - 1, height * 3 // 4), fill=(200, 30, 60, 255))
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def picture(kind: str = "PNG", image: Image.Image | None = None, **how: Any) -> bytes:
    found = BytesIO()
    (image or drawn(mode="RGB" if kind == "JPEG" else "RGBA")).save(found, format=kind, **how)
    return found.getvalue()


PNG = picture()
