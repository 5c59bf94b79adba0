"""The drawn worlds: captions, an exact renderer and exact checkers, and what they give to recipes: prompts and rewards.

Drawing and checking need neither torch nor a download. No general room imports this one; `build` wires it.
"""
