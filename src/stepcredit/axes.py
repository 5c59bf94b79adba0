"""The axis letters of every shape in this package.

P   prompts of one rollout
G   group: the samples of one prompt
K   objectives (rewards)
N   transitions of the sampler, counted from noise to data
L   noise levels, L = N + 1 (level 1 = noise, level 0 = data)
T   trained transitions, T <= N
B   any flat batch
*latent   the axes of one latent, whatever the model makes them
"""
