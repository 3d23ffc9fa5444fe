"""Decoders of HEIC and AVIF pictures, which Pillow alone may not read."""

from __future__ import annotations

from dbrun.errors import RecipeError

HEADER_BYTES = 64
"""First bytes of a file that are enough to tell its kind."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")


def register_decoder(head: bytes, name: str) -> None:
    """Register the decoder that Pillow needs for a picture. Raises RecipeError where its package is missing.

    head: the file's first bytes, HEADER_BYTES or more; name: the picture's name in error messages.
    """
    # both kinds are ISO base media files: a box `ftyp` with a major brand, then the compatible brands
    brand = b""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
    names_avif = any(other in head for other in AVIF_BRANDS)
    # `mif1` is the major brand of some AVIF files, too; then a compatible brand says so
    if brand in HEIF_BRANDS and not names_avif:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise RecipeError(f"{name}: found a HEIC picture, which only the package pillow-heif reads",
                              fix="pip install 'dbrun[heif]', or save it as JPEG") from None
        register_heif_opener()
    elif brand and names_avif:
        from PIL import features

        if not features.check("avif"):
            raise RecipeError(f"{name}: found an AVIF picture, which this build of Pillow does not read",
                              fix="pip install --force-reinstall pillow, or save it as PNG")
