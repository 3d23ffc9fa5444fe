"""LyCORIS' own loader over the models of sd-scripts, which is how its trainers use it."""

from __future__ import annotations

from pathlib import Path

import kohya_reader


class Reader(kohya_reader.Reader):
    """The installed LyCORIS over one checkout of sd-scripts."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        import lycoris.kohya

        # 4.1.3 lists the time embedding's layers twice, by name and class, and stumbles over it
        lycoris.kohya.LycorisNetworkKohya.UNET_TARGET_REPLACE_NAME = []
        self.create = lycoris.kohya.create_network_from_weights
