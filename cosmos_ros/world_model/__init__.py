"""The world model: tokenizer, transformer and decoding, in PyTorch alone."""

from cosmos_ros.world_model.checkpoints.transformer_weights import load_transformer
from cosmos_ros.world_model.config import TransformerConfig, Yarn
from cosmos_ros.world_model.decoding.sampling import Sampling
from cosmos_ros.world_model.diffusion_decoder.decoder import DiffusionDecoder, load_diffusion_decoder
from cosmos_ros.world_model.model_spec import ModelSpec
from cosmos_ros.world_model.transformer import Transformer
from cosmos_ros.world_model.world_model import WorldModel

__all__ = [
    "DiffusionDecoder",
    "ModelSpec",
    "Sampling",
    "Transformer",
    "TransformerConfig",
    "WorldModel",
    "Yarn",
    "load_diffusion_decoder",
    "load_transformer",
]
