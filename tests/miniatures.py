"""Tiny random pipelines of the supported families, with the structure of the real configurations.

Each builder returns a whole diffusers pipeline: networks, tokenizers and scheduler. The weights are drawn from `seed`
and mean nothing; only the wiring is that of the real models. A pipeline has less than 500,000 weights, is built in
a fraction of a second and draws 16 x 16 pixels.

Text is cut into whole words for the captions of `stepcredit.scenes.captions`; letters, digits and punctuation spell
out the rest.
"""

import string
from collections import Counter
from contextlib import contextmanager
from functools import cache
from itertools import pairwise

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from stepcredit.scenes.captions import every_caption

WIDTH = 32  # of every text encoder; Flux, SD3 and Qwen-Image have 2 heads of 16
CLIP_LENGTH = 16  # 77 in the real models
ZERO_SCALE = 0.05  # of the normals that replace parameters initialised to zero
CHARACTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]

# the words of QwenImagePipeline's prompt template; with one token each, the template before the prompt has 34 tokens
QWEN_TEMPLATE_WORDS = (
    "system user assistant Describe the image by detailing the color shape size texture quantity text spatial "
    "relationships of the objects and background"
)

# those of Wan and Qwen-Image, rounded: 16 latent channels
LATENTS_MEAN = [-0.76, -0.71, -0.91, 0.11, -0.17, 0.97, -0.15, 1.55, 0.41, -0.07, 0.55, -0.36, -0.19, -0.95, 0.25, -0.3]
LATENTS_STD = [2.82, 1.45, 2.33, 2.66, 1.22, 1.77, 2.61, 2.07, 3.27, 2.15, 2.87, 1.56, 1.64, 1.13, 2.83, 1.92]


def flux(seed=0):
    """FLUX.1-dev's form: two double and two single blocks, guidance embedded, packed latents (batch, tokens, 64).

    height and width: multiples of 4 (the VAE halves, packing halves again); 16 x 16 gives 16 tokens.
    guidance_scale: goes into the network. max_sequence_length: 16 (any; T5 has no limit of its own). No negative
    prompt unless true_cfg_scale is above 1.
    """
    with _seeded(seed):
        return _finished(
            FluxPipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(
                    use_dynamic_shifting=True,
                    shift=3.0,
                    base_shift=0.5,
                    max_shift=1.15,
                    base_image_seq_len=256,
                    max_image_seq_len=4096,
                ),
                vae=_image_vae(
                    16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
                ),
                text_encoder=CLIPTextModel(_clip_config()),
                tokenizer=clip_tokenizer(),
                text_encoder_2=T5EncoderModel(_t5_config(T5Config)),
                tokenizer_2=t5_tokenizer(),
                transformer=FluxTransformer2DModel(
                    patch_size=1,
                    in_channels=64,
                    num_layers=2,
                    num_single_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=WIDTH,
                    pooled_projection_dim=WIDTH,
                    guidance_embeds=True,
                    axes_dims_rope=(4, 6, 6),
                ),
            )
        )


def sd3(seed=0):
    """Stable Diffusion 3.5 medium's form: two CLIPs and a T5, dual attention in the first block, normed queries and
    keys, latents (batch, 16, height / 2, width / 2).

    height and width: multiples of 4, at most 32 (8 x 8 positions of 2 x 2 latents). guidance_scale above 1 draws with
    negative_prompt (default ""). max_sequence_length: 16 (any up to 512).
    """
    with _seeded(seed):
        return _finished(
            StableDiffusion3Pipeline(
                transformer=SD3Transformer2DModel(
                    sample_size=8,
                    patch_size=2,
                    in_channels=16,
                    out_channels=16,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=WIDTH,
                    caption_projection_dim=WIDTH,
                    pooled_projection_dim=WIDTH,
                    pos_embed_max_size=8,
                    dual_attention_layers=(0,),
                    qk_norm="rms_norm",
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=_image_vae(
                    16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
                ),
                text_encoder=CLIPTextModelWithProjection(_clip_config(width=WIDTH // 2)),
                tokenizer=clip_tokenizer(),
                text_encoder_2=CLIPTextModelWithProjection(_clip_config(width=WIDTH // 2, hidden_act="gelu")),
                tokenizer_2=clip_tokenizer(),
                text_encoder_3=T5EncoderModel(_t5_config(T5Config)),
                tokenizer_3=t5_tokenizer(),
            )
        )


def wan(seed=0, experts=1):
    """Wan2.1's form; with `experts=2` Wan2.2-A14B's: a second transformer draws below timestep 875.

    height and width: multiples of 16. num_frames: 4 n + 1 (the VAE divides time by 4 and each side by 4; 5 frames of
    16 x 16 pixels are latents (batch, 16, 2, 4, 4)). max_sequence_length: 16 (any up to 512). guidance_scale above 1
    draws with negative_prompt (default ""); guidance_scale_2 only with two experts. Both experts draw from 2 steps on.
    """
    if experts not in (1, 2):
        raise ValueError(f"Wan has 1 or 2 experts, not {experts}")
    with _seeded(seed):
        transformers = [
            WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=24,
                in_channels=16,
                out_channels=16,
                text_dim=WIDTH,
                freq_dim=32,
                ffn_dim=96,
                num_layers=2,
                cross_attn_norm=True,
                qk_norm="rms_norm_across_heads",
                rope_max_seq_len=32,
            )
            for _ in range(experts)
        ]
        return _finished(
            WanPipeline(
                tokenizer=t5_tokenizer(),
                text_encoder=UMT5EncoderModel(_t5_config(UMT5Config)),
                vae=AutoencoderKLWan(
                    base_dim=8,
                    z_dim=16,
                    dim_mult=[1, 2, 2],
                    num_res_blocks=1,
                    temperal_downsample=[True, True],
                    latents_mean=LATENTS_MEAN,
                    latents_std=LATENTS_STD,
                    scale_factor_temporal=4,
                    scale_factor_spatial=4,
                ),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
                transformer=transformers[0],
                transformer_2=transformers[1] if experts == 2 else None,
                boundary_ratio=0.875 if experts == 2 else None,
            )
        )


def qwen_image(seed=0):
    """Qwen-Image's form: the language part of a Qwen2.5-VL reads the prompt, packed latents (batch, tokens, 64).

    height and width: multiples of 8 (the VAE divides by 4, packing halves); 16 x 16 gives 4 tokens.
    true_cfg_scale above 1 draws with negative_prompt and needs one (" " will do); guidance_scale is not used.
    max_sequence_length: 16 (any up to 1024; only cuts, never pads).
    """
    with _seeded(seed):
        tokenizer = qwen_tokenizer()
        return _finished(
            QwenImagePipeline(
                scheduler=FlowMatchEulerDiscreteScheduler(
                    use_dynamic_shifting=True,
                    base_shift=0.5,
                    max_shift=0.9,
                    base_image_seq_len=256,
                    max_image_seq_len=8192,
                    shift_terminal=0.02,
                    time_shift_type="exponential",
                ),
                vae=AutoencoderKLQwenImage(
                    base_dim=8,
                    z_dim=16,
                    dim_mult=[1, 2, 2],
                    num_res_blocks=1,
                    temperal_downsample=[False, True],
                    latents_mean=LATENTS_MEAN,
                    latents_std=LATENTS_STD,
                ),
                text_encoder=Qwen2_5_VLForConditionalGeneration(_qwen_config(len(tokenizer), tokenizer.eos_token_id)),
                tokenizer=tokenizer,
                transformer=QwenImageTransformer2DModel(
                    patch_size=2,
                    in_channels=64,
                    out_channels=16,
                    num_layers=2,
                    attention_head_dim=16,
                    num_attention_heads=2,
                    joint_attention_dim=WIDTH,
                    axes_dims_rope=(4, 6, 6),
                ),
            )
        )


def sd(seed=0):
    """Stable Diffusion 1.5's form: a UNet that predicts the noise, latents (batch, 4, height / 2, width / 2), no
    safety checker.

    height and width: multiples of 8. guidance_scale above 1 draws with negative_prompt (default "").
    There is no max_sequence_length: texts have 16 tokens.
    """
    with _seeded(seed):
        return _finished(
            StableDiffusionPipeline(
                vae=_image_vae(4, scaling_factor=0.18215),
                text_encoder=CLIPTextModel(_clip_config()),
                tokenizer=clip_tokenizer(),
                unet=UNet2DConditionModel(
                    sample_size=8,
                    in_channels=4,
                    out_channels=4,
                    block_out_channels=(16, 32),
                    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                    layers_per_block=1,
                    norm_num_groups=4,
                    cross_attention_dim=WIDTH,
                    attention_head_dim=2,  # diffusers takes this for the number of heads, as in SD 1.5's own config
                ),
                scheduler=PNDMScheduler(
                    num_train_timesteps=1000,
                    beta_start=0.00085,
                    beta_end=0.012,
                    beta_schedule="scaled_linear",
                    skip_prk_steps=True,
                    set_alpha_to_one=False,
                    steps_offset=1,
                ),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        )


def clip_tokenizer():
    """Pads to 16 tokens, as CLIP's own pads to 77."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=CLIP_LENGTH)


def t5_tokenizer():
    """One piece per word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in _words()]
    pieces += [(character, -12.0) for character in ["▁", *CHARACTERS]]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def qwen_tokenizer():
    """Byte-level pairs, merged until each word is one token with and without the space before it."""
    vocabulary, merges = _qwen_vocabulary()
    tokenizer = Qwen2Tokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=2048)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer


@contextmanager
def _seeded(seed):
    """Draws from `seed` and leaves the caller's random numbers as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _finished(pipe):
    """Ready to draw, with every parameter that was initialised to zero drawn anew: no part of the input is without
    effect. Must run inside `_seeded`."""
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.float().eval()
            for parameter in component.parameters():
                if not parameter.any():
                    nn.init.normal_(parameter, std=ZERO_SCALE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _image_vae(channels, **settings):
    """An autoencoder that halves each side."""
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=channels,
        **settings,
    )


def _clip_config(width=WIDTH, **settings):
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        initializer_range=1.0,  # 0.02 lets the words hardly differ
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **settings,
    )


def _t5_config(kind):
    return kind(
        vocab_size=len(t5_tokenizer()),
        d_model=WIDTH,
        d_kv=16,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        tie_word_embeddings=False,
    )


def _qwen_config(tokens, end):
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": tokens,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        },
        vision_config={
            "depth": 1,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        image_token_id=end,
        video_token_id=end,
        vision_start_token_id=end,
        vision_end_token_id=end,
    )


@cache
def _words():
    return tuple(sorted({word for caption in every_caption() for word in str(caption).split()}))


@cache
def _clip_vocabulary():
    merges = _merges([[*word[:-1], word[-1] + "</w>"] for word in _words()])
    single = [*CHARACTERS, *(character + "</w>" for character in CHARACTERS)]
    tokens = dict.fromkeys([*single, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"])
    return {token: index for index, token in enumerate(tokens)}, merges


@cache
def _qwen_vocabulary():
    plain = sorted({*_words(), *QWEN_TEMPLATE_WORDS.split()})
    merges = _merges([list(word) for plain_word in plain for word in (plain_word, "Ġ" + plain_word)])
    tokens = dict.fromkeys([*sorted(ByteLevel.alphabet()), *(a + b for a, b in merges), "<|endoftext|>"])
    return {token: index for index, token in enumerate(tokens)}, merges


def _merges(spelled):
    """The pairs to join, most frequent first, until every word is one token; ties are broken by the alphabet, so that
    every run gives every word the same number."""
    merges = []
    while any(len(pieces) > 1 for pieces in spelled):
        counts = Counter(pair for pieces in spelled for pair in pairwise(pieces))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(pieces, best) for pieces in spelled]
    return merges


def _merged(pieces, pair):
    """Every occurrence of the pair joined, from the left."""
    joined = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
