"""Which kinds of pictures are read by a package of their own, and is it here?"""

from __future__ import annotations

from dbrun.errors import RecipeError

HEADER_BYTES = 64
"""How many of a file's first bytes tell its kind."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


def register_decoder(head: bytes, name: str) -> None:
    """Let Pillow read a picture that begins so. Raises RecipeError where that needs a package that is not here.

    name: what errors call the picture.
    """
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in HEIF_BRANDS and not any(other in head for other in AVIF_BRANDS):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise RecipeError(f"{name}: found a HEIC picture, which only the package pillow-heif reads",
                              fix="pip install 'dbrun[heif]', or save it as JPEG") from None
        register_heif_opener()
    elif brand in AVIF_BRANDS or any(other in head for other in AVIF_BRANDS if brand):
        from PIL import features

        if not features.check("avif"):
            raise RecipeError(f"{name}: found an AVIF picture, which this build of Pillow does not read",
                              fix="pip install --force-reinstall pillow, or save it as PNG")
