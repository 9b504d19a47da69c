"""How a chunk of frames becomes latent frames."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunking:
    """How a chunk of frames becomes latent frames.

    latent_shape  (t, h, w) of a chunk's tokens
    compression   pixels per token along (time, height, width)
    """

    latent_shape: tuple[int, int, int]
    compression: tuple[int, int, int]

    @property
    def n_frames(self) -> int:
        return 1 + (self.latent_shape[0] - 1) * self.compression[0]

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.latent_shape[1] * self.compression[1], self.latent_shape[2] * self.compression[2]

    @property
    def tokens_per_latent_frame(self) -> int:
        return self.latent_shape[1] * self.latent_shape[2]

    def latent_frames(self, n_frames: int) -> int:
        """Latent frames of n pixel frames from the chunk's start. Raises ValueError where they end inside one."""
        whole, rest = divmod(n_frames - 1, self.compression[0])
        if not 1 <= n_frames <= self.n_frames or rest:
            step = self.compression[0]
            raise ValueError(f"a clip must have 1 + {step}k frames, at most {self.n_frames}; got {n_frames}")
        return 1 + whole
