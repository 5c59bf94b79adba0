"""The drawn world: captions, an exact renderer and an exact checker. Needs neither torch nor a download."""
